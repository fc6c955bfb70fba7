#!/usr/bin/env python3
"""test_evaluate.py: ./evaluate. Every form of task, every language whose toolchain is here, answers
right and wrong, pass@k against values computed by hand, prompts and programs against what
OpenCodeEval makes of the same tasks (recorded in tests/data/eval/opencodeeval.json), runs that are
stopped and go on, and everything a user can get wrong. The sandbox has tests of its own."""

import base64
import json
import os
import pickle
import random
import shutil
import xml.etree.ElementTree as ElementTree
import zlib

import chat_model
from check import (ROOT, SCRATCH, check, check_equal, end, program, short, skip, start,
                   write_file)

TASKS = os.path.join(ROOT, "tests", "data", "eval")
PLACE = os.path.join(SCRATCH, "evaluate")
SLOW = "go_test.go", "ts"  # to compile: a right answer and a wrong one will do
ONE = "Own/0"  # of humaneval.jsonl: running_total


def tasks(name):
    return os.path.join(TASKS, name + ".jsonl")


def rows_of(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def lines(name, rows):
    """A JSON Lines file; rows that are text stand there as they are."""
    return write_file(os.path.join(PLACE, name), "".join(
        (row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def evaluate(*words, executable=None):
    done = start(executable or program("evaluate"), *words)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def refused(name, code, mentions, *words, **more):
    got, out, err = evaluate(*words, **more)
    last = err.splitlines()[-1:] or [""]
    check(f"refused: {name}", got == code and last[0].startswith("error: ") and not out and
          all(word in last[0] for word in mentions),
          f"exit code {got}, {short(last)}, expected {code} and {mentions}")


def graded(name, task_file, answers, *options):
    """Grades answers; returns the score's text and the results by task and sample."""
    place = os.path.join(PLACE, "out")
    shutil.rmtree(place, ignore_errors=True)
    code, out, err = evaluate(task_file, "--completions", lines("answers.jsonl", answers), "-o",
                              place, *options)
    check(f"{name}: ends well", code == 0, f"exit code {code}: {short(err)}")
    results = rows_of(os.path.join(place, "results.jsonl")) if code == 0 else []
    return out, {(row["task_id"], row["sample"]): row for row in results}


# ------------------------------------------------------------------------------- right and wrong


def test_canonical():
    """What a task file itself says is right passes."""
    for name in ("humaneval", "mbpp", "mbppplus", "livecode", "plain"):
        n = len(rows_of(tasks(name)))
        code, out, err = evaluate(tasks(name), "--canonical")
        check_equal(f"canonical solutions of {name}", (code, out), (0, f"{n}/{n} 100.0 %\n"))
    code, out, err = evaluate(tasks("mbppplus"), "--canonical", "--base-tests")
    check_equal("MBPP+ by the tests of MBPP", out, "1/1 100.0 %\n")


WRONG = [
    ("    return []\n", "wrong answer"), ("    return None\n", "wrong answer"),
    ("    raise ValueError('no')\n", "exception"), ("    return missing\n", "exception"),
    ("    while True:\n        pass\n", "time limit"), ("    return (\n", "syntax"),
    ("    import sys\n    sys.exit(0)\n", None), ("    import os\n    os._exit(0)\n", None),
    ("", "wrong answer"),
    ("    class Any:\n        def __eq__(self, other):\n            return True\n"
     "    return Any()\n", None),
]


def test_wrong():
    out, results = graded("wrong answers", tasks("humaneval"), [
        {"task_id": ONE, "completion": text} for text, _ in WRONG], "--timeout", 1)
    check_equal("wrong answers score 0", out.splitlines()[0], f"0/{len(WRONG)} 0.0 %")
    for i, (text, verdict) in enumerate(WRONG):
        row = results.get((ONE, i), {"result": None})
        check(f"verdict of {short(text)}", row["result"] == verdict or
              (verdict is None and row["result"] != "passed"), short(row))
    check("a reason names the exception", "ValueError: no" in results[(ONE, 2)].get("reason", ""),
          short(results[(ONE, 2)]))
    for name in ("mbpp", "mbppplus", "livecode", "plain"):
        stubs = [{"task_id": row.get("task_id", row.get("question_id")), "completion": "x = 1\n"}
                 for row in rows_of(tasks(name))]
        out, _ = graded(f"stubs for {name}", tasks(name), stubs)
        check_equal(f"stubs for {name} score 0", out, f"0/{len(stubs)} 0.0 %\n")


def test_languages():
    """In every language: the right answer, a wrong one, one that does not compile."""
    changes = {"c": ("a = b;", "a = 1;"), "cpp": ("b ? ", "!b ? "), "js": ("b ? ", "!b ? "),
               "java": ("b == 0", "b != 0"), "go_test.go": ("a, b = b, a%b", "a, b = 1, 0"),
               "rs": ("b == 0", "b != 0"), "sh": ("a=$b", "a=1"), "php": ("$b ? ", "!$b ? "),
               "cs": ("b == 0", "b != 0"), "ts": ("b ? ", "!b ? "), "py": ("return a", "return b")}
    answers = []
    for row in rows_of(tasks("multiple")):
        right, (old, new) = row["solution"], changes[row["language"]]
        check(f"{row['language']}: there is something to change", old in right)
        texts = [right, right.replace(old, new), right + "\n ]]) ((\n"]
        answers += [{"task_id": row["name"], "completion": text}
                    for text in (texts[:2] if row["language"] in SLOW else texts)]
    out, results = graded("languages", tasks("multiple"), answers, "--timeout", 10)
    here = n = 0
    for row in rows_of(tasks("multiple")):
        word = row["language"]
        found = [results[(row["name"], i)]["result"] for i in range(2 if word in SLOW else 3)]
        if set(found) == {"not run"}:  # not counted
            skip(f"programs in {word}", results[(row["name"], 0)]["reason"])
            continue
        here, n = here + 1, n + len(found)
        check_equal(f"{word}: the right answer", found[0], "passed")
        check(f"{word}: a wrong answer", found[1] in ("wrong answer", "exception"), str(found))
        if word in SLOW:
            continue
        if word in ("c", "cpp", "java", "rs", "cs"):
            check_equal(f"{word}: what does not compile", found[2], "compilation error")
        else:
            check(f"{word}: what has no meaning", found[2] not in ("passed", "not run"), found[2])
    check_equal("the score of all languages here", out.splitlines()[0],
                f"{here}/{n} {100 * here / n:.1f} %")


def test_missing():
    """Where no toolchain is found: nothing is failed, and nothing is scored."""
    nowhere = {"PATH": "/nonexistent"}
    done = start(program("evaluate"), "--languages", env=nowhere)
    rows = [line.split(None, 1) for line in done.stdout.decode().splitlines()]
    check("--languages", done.returncode == 0 and len(rows) == 12 and
          ["c", "cc: not installed"] in rows, short(rows))
    others = lines("others.jsonl", rows_of(tasks("plain"))[:2])  # in C and shell
    done = start(program("evaluate"), others, "--canonical", env=nowhere)
    err = done.stderr.decode().splitlines()
    check("what cannot be run is no failure", done.returncode == 1 and not done.stdout and
          "2 not run" in " ".join(err) and "none of the 2 answers" in err[-1], short(err))


def test_output():
    """stdout is compared as LiveCodeBench does; the task adds two numbers of a line."""
    def answer(code):
        return {"task_id": "own_a", "completion": "import sys\nfor line in sys.stdin:\n"
                "    a, b = map(float, line.split())\n    " + code}
    answers = [answer("print(a + b)"), answer("print('  %.6f ' % (a + b))"),
               answer("print(a + b + 1e-3)"), answer("print(a + b, 0)"), answer("print(a - b)"),
               answer("print('x' * 100000)"), {"task_id": "own_a", "completion": "print(\n"},
               answer("raise KeyError(1)"), {"task_id": "own_a", "completion": "print('3')\n"},
               answer("print(a + b)\n    break")]
    out, results = graded("outputs", tasks("livecode"), answers)
    want = ["passed", "passed", "wrong answer", "wrong answer", "wrong answer", "output limit",
            "syntax", "exception", "wrong answer", "wrong answer"]
    check_equal("outputs", [results[("own_a", i)]["result"] for i in range(len(answers))], want)
    check("both outputs are told", "test 1: got '3.001', expected '3'" in
          results[("own_a", 2)]["reason"], short(results[("own_a", 2)]))


def test_forms_of_answers():
    """Names and numbers of tasks, continuations and whole programs, imports."""
    right = rows_of(tasks("humaneval"))[0]["canonical_solution"]
    whole = "def running_total(numbers):\n" + right
    out, _ = graded("forms", tasks("humaneval"), [
        {"task_id": ONE, "completion": right}, {"task_id": 0, "completion": right},
        {"task_id": "0", "solution": whole}, {"task_id": ONE, "completion": whole, "more": [1]}])
    check_equal("forms of answers", out.splitlines()[0], "4/4 100.0 %")
    mean = rows_of(tasks("humaneval"))[2]["canonical_solution"]
    for option, want in (((), "1/1 100.0 %\n"), (("--no-imports",), "0/1 0.0 %\n")):
        out, _ = graded("imports", tasks("humaneval"), [{"task_id": "Own/2", "completion": mean}],
                        *option)
        check_equal(f"math {option}", out, want)
    fenced = "First:\n```\npip install it\n```\nThen:\n```python\n" + whole + "```\nand so on\n"
    for how, want in (("none", "0/1 0.0 %\n"), ("fence", "1/1 100.0 %\n"),
                      ("opencodeeval", "1/1 100.0 %\n")):
        out, _ = graded("fences", tasks("humaneval"), [{"task_id": ONE, "completion": fenced}],
                        "--chat", "--postprocess", how)
        check_equal(f"a chat's answer, --postprocess {how}", out, want)
    code, out, err = evaluate(tasks("humaneval"), "--completions", lines("a.jsonl", [
        {"task_id": ONE, "completion": right}]))
    check("tasks without an answer are told", "2 of 3 tasks have no answer" in err and
          out == "1/1 100.0 %\n", short(err))
    code, out, err = evaluate(tasks("humaneval"), "-q", "--completions", os.path.join(
        PLACE, "a.jsonl"))
    check_equal("-q", (code, out, err), (0, "1/1 100.0 %\n", ""))
    for text, want in (("    return []\n", "0/1 0.0 %\n"), (right, "1/1 100.0 %\n")):
        code, out, err = evaluate(tasks("humaneval"), "-o", os.path.join(PLACE, "twice"),
                                  "--completions", lines("a.jsonl", [
                                      {"task_id": ONE, "completion": text}]))
        check("an outcome belongs to its program", out == want and "already" not in err, err)


def test_pass_at_k():
    """4 answers to each of two tasks, of which 1 and 0 pass; and 2 of 3 to a third."""
    right = [row["canonical_solution"] for row in rows_of(tasks("humaneval"))]
    answers = [{"task_id": ONE, "completion": text}
               for text in ("    pass\n", right[0], "    pass\n", "    pass\n")]
    answers += [{"task_id": "Own/1", "completion": "    pass\n"}] * 4
    out, _ = graded("pass@k", tasks("humaneval"), answers, "--k", "1,2,3,4,5")
    # pass@2 of the first: 1 - C(3,2) / C(4,2) = 1/2; of the second: 0
    check_equal("pass@k of 1 and 0 of 4", out, "1/8 12.5 %\npass@2 25.0 %\npass@3 37.5 %\n"
                "pass@4 50.0 %\n")
    two = [{"task_id": "Own/2", "completion": text} for text in (right[2], right[2], "", "")]
    out, _ = graded("pass@k", tasks("humaneval"), two, "--k", "1,2,3")
    # pass@2: 1 - C(2,2) / C(4,2)
    check_equal("pass@k of 2 of 4", out, "2/4 50.0 %\npass@2 83.3 %\npass@3 100.0 %\n")
    answers += two[:3]
    out, _ = graded("pass@k", tasks("humaneval"), answers, "--k", "1,2")
    # pass@1: (1/4 + 0 + 2/3) / 3; pass@2: (1/2 + 0 + 1) / 3
    check_equal("pass@k of unequal numbers", out, "3/11 27.3 %\npass@2 50.0 %\n")
    with open(os.path.join(PLACE, "out", "summary.txt"), encoding="utf-8") as file:
        summary = file.read()
    # of 27 resamplings of 3 tasks, 1 has the lowest mean, 0; 1 the highest, 2/3
    check("an interval by resampling", "pass@1  30.6 % (0.0 to 66.7)" in summary, summary)
    tree = ElementTree.parse(os.path.join(PLACE, "out", "scores.svg"))
    bars = [part for part in tree.iter() if part.tag.endswith("rect") and part.get("x")]
    check_equal("bars", [round(float(bar.get("height")) / 390, 2) for bar in bars], [0.31, 0.5])


# ------------------------------------------------------------------------------------ OpenCodeEval


def recorded():
    with open(os.path.join(TASKS, "opencodeeval.json"), encoding="utf-8") as file:
        return json.load(file)


def test_prompts():
    record = recorded()
    for name, words in {"humaneval": ["humaneval"], "humaneval_chat": ["humaneval", "--chat"],
                        "mbpp": ["mbpp", "--tasks", "10-509"], "mbppplus": ["mbppplus"]}.items():
        code, out, err = evaluate("--show-prompts", tasks(words[0]), *words[1:])
        rows = [json.loads(line) for line in out.splitlines()]
        check_equal(f"prompts of {name}", [row["prompt"] for row in rows], record[name])
        base = "\ndef " in rows[0]["stop"] and "\nassert " in rows[0]["stop"]
        check(f"stops of {name}", base == (name != "humaneval_chat") and
              "\nprint(" in rows[0]["stop"], str(rows[0]["stop"]))
    code, out, err = evaluate("--show-prompts", tasks("mbpp"), "--zero-shot", "--tasks", "11-11")
    prompt = json.loads(out)["prompt"]
    check("MBPP without examples", prompt.count("You are an expert") == 1 and
          record["mbpp"][0].endswith(prompt), short(prompt))
    code, out, err = evaluate("--show-prompts", tasks("multiple"))
    check_equal("prompts of MultiPL-E are its own", [json.loads(line)["prompt"] for line in
                                                     out.splitlines()],
                [row["prompt"] for row in rows_of(tasks("multiple"))])
    code, out, err = evaluate("--show-prompts", tasks("livecode"), "--chat")
    both = [json.loads(line)["prompt"] for line in out.splitlines()]
    check("prompts of LiveCodeBench", "standard input" in both[0] and "class Solution" in both[1],
          short(both))


def test_sanitize():
    """The program that OpenCodeEval finds in an answer."""
    task = rows_of(tasks("humaneval"))[0]
    for i, case in enumerate(recorded()["sanitize"]):
        kind = {"task_id": "x", "prompt": task["prompt"], "tests": "", "whole": True}
        if case["entry_point"]:
            kind = task
        place = os.path.join(PLACE, "sanitize")
        shutil.rmtree(place, ignore_errors=True)
        answer = lines("answer.jsonl", [{"task_id": kind["task_id"], "completion": case["text"]}])
        evaluate(lines("task.jsonl", [kind]), "--completions", answer, "-o", place,
                 "--postprocess", "opencodeeval", *(["--chat"] if case["chat"] else []))
        path = os.path.join(place, "results.jsonl")
        got = rows_of(path)[0]["solution"] if os.path.exists(path) else None
        check_equal(f"program {i}", got, case["want"])


# ------------------------------------------------------------------------------------- generation


def read(*path):
    with open(os.path.join(PLACE, *path), "rb") as file:
        return file.read()


def test_generate():
    model = chat_model.write_model("evaluate-model.gguf", ends=0)
    few = ("--max-tokens", 24, "--postprocess", "fence", "-q")

    def run(out, *words):
        return evaluate(model, tasks("humaneval"), *few, "-o", os.path.join(PLACE, out), *words)

    code, out, err = run("one", "-b", 1)
    check("a model is graded", code == 0 and out == "0/3 0.0 %\n", short((code, out, err)))
    run("many", "-b", 3)
    check_equal("the same answers one by one and together", read("many", "completions.jsonl"),
                read("one", "completions.jsonl"))
    texts = [row["completion"] for row in rows_of(os.path.join(PLACE, "one", "completions.jsonl"))]
    prompts = [json.loads(line)["prompt"] for line in
               evaluate("--show-prompts", tasks("humaneval"))[1].splitlines()]
    done = start(program("run"), model, "-i", prompts[0], "-n", 24, "--no-echo", "-q")
    check_equal("and those of ./run", texts[0] + "\n", done.stdout.decode())
    sampled = ("-n", 3, "-t", 1)
    run("sampled", *sampled, "-b", 2)
    run("again", *sampled, "-b", 5)
    run("other", *sampled, "--seed", 2)
    check_equal("a seed, the same samples", read("again", "completions.jsonl"),
                read("sampled", "completions.jsonl"))
    rows = rows_of(os.path.join(PLACE, "sampled", "completions.jsonl"))
    check("samples differ", len({row["completion"] for row in rows}) == 9 and
          [row["sample"] for row in rows] == [0, 1, 2] * 3, short(rows))
    check("another seed, other samples", read("other", "completions.jsonl") !=
          read("sampled", "completions.jsonl"))
    code, out, err = evaluate(model, tasks("humaneval"), "--generate-only", "--max-tokens", 24,
                              "--postprocess", "fence")
    check("--generate-only writes to stdout", code == 0 and
          [json.loads(line)["completion"] for line in out.splitlines()] == texts, short(err))
    code, out, err = evaluate(tasks("humaneval"), "-q", "--completions", lines(
        "given.jsonl", out.splitlines()))
    check_equal("what it writes can be graded", (code, out), (0, "0/3 0.0 %\n"))
    stops = lines("stops.jsonl", [{"task_id": c, "language": "c", "prompt": "int f(", "tests": "",
                                   "stop": [c, c + c]} for c in chat_model.CHARACTERS[:40]])
    code, out, err = evaluate(model, stops, "--generate-only", *few)
    rows = [json.loads(line) for line in out.splitlines()]
    check("an answer ends before a stop", code == 0 and len(rows) == 40 and
          all(row["task_id"] not in row["completion"] for row in rows) and
          {"stop", "length"} == {row["finish"] for row in rows}, short(rows))
    test_resume(run)
    test_chat(few)
    if not os.path.exists(program("evaluate-emu")):
        skip("the GPU's engine", "no evaluate-emu here")
        return
    done = start(program("evaluate-emu"), model, tasks("humaneval"), "--generate-only", "-b", 3,
                 "--max-tokens", 8, "--postprocess", "fence")
    check_equal("answers by the GPU's engine", [json.loads(line)["completion"] for line in
                                                done.stdout.decode().splitlines()],
                [text[:8] for text in texts])


def test_resume(run):
    whole = {name: read("sampled", name) for name in ("completions.jsonl", "results.jsonl")}
    for name, text in whole.items():  # as a killed run leaves them: 4 lines and half of one
        place = text.split(b"\n")
        write_file(os.path.join(PLACE, "stopped", name), b"\n".join(place[:4] + [place[4][:30]]))
    code, out, err = evaluate(os.path.join(SCRATCH, "evaluate-model.gguf"), tasks("humaneval"),
                              "--max-tokens", 24, "--postprocess", "fence", "-o",
                              os.path.join(PLACE, "stopped"), "-n", 3, "-t", 1)
    check("a stopped run goes on", code == 0 and "4 of 9 answers are there already" in err and
          "generated 5 answers" in err and "4 of 9 answers are graded already" in err, short(err))
    check_equal("and ends up the same", read("stopped", "completions.jsonl"),
                whole["completions.jsonl"])
    check_equal("with the same results", [[row[key] for key in ("task_id", "sample", "result")]
                                          for row in rows_of(os.path.join(PLACE, "stopped",
                                                                          "results.jsonl"))],
                [[row[key] for key in ("task_id", "sample", "result")] for row in
                 rows_of(os.path.join(PLACE, "sampled", "results.jsonl"))])
    code, out, err = run("stopped", "-n", 3, "-t", 0.5)
    check("answers of other settings are not lost", code == 1 and "--restart" in err and
          read("stopped", "completions.jsonl") == whole["completions.jsonl"], short(err))
    code, out, err = run("stopped", "-n", 3, "-t", 0.5, "--restart")
    check("but with --restart", code == 0 and read("stopped", "completions.jsonl") !=
          whole["completions.jsonl"], short(err))
    code, out, err = run("stopped", "-n", 4, "-t", 0.5)
    check_equal("more samples join", len(rows_of(os.path.join(PLACE, "stopped",
                                                              "completions.jsonl"))), 12)


def test_chat(few):
    model = os.path.join(SCRATCH, "evaluate-model.gguf")
    texts = []
    for words in ((), ("--opencodeeval",)):
        code, out, err = evaluate(model, tasks("humaneval"), "--generate-only", "--chat", *few,
                                  *words, "-c", 900)
        texts.append([json.loads(line)["completion"] for line in out.splitlines()])
        check(f"a chat {words}", code == 0 and len(texts[-1]) == 3, short(err))
    check("OpenCodeEval's chat lacks a token", texts[0] != texts[1])
    code, out, err = evaluate(model, tasks("humaneval"), "--generate-only", "-c", 20, *few)
    check_equal("prompts that do not fit", [json.loads(line).get("finish") for line in
                                            out.splitlines()], ["context"] * 3)


# ------------------------------------------------------------------------------------------ errors


def test_packed():
    """LiveCodeBench's packed tests: of every kind of block, and damaged ones."""
    task, cases = rows_of(tasks("livecode"))[0], [{"input": "1 2", "output": "3"}]
    cases.append({"input": "\n".join(f"{i * i} {i}" for i in range(300)),
                  "output": "\n".join(str(i * i + i) for i in range(300))})
    for level in (0, 1, 9):
        for protocol in (3, 4):
            data = zlib.compress(pickle.dumps(json.dumps(cases), protocol), level)
            task["private_test_cases"] = base64.b64encode(data).decode()
            path = lines("packed.jsonl", [task])
            check_equal(f"packed at level {level}, pickle {protocol}",
                        evaluate(path, "--canonical", "-q")[1], "1/1 100.0 %\n")
        noise = random.Random(level)
        codes = set()
        for _ in range(12):
            bad = bytearray(data)
            bad[noise.randrange(len(bad))] ^= 1 << noise.randrange(8)
            task["private_test_cases"] = base64.b64encode(bad[:noise.choice([None, -9])]).decode()
            code, out, err = evaluate(lines("packed.jsonl", [task]), "--show-prompts")
            codes.add((code, "key private_test_cases: " in err))
        check_equal(f"damaged, level {level}", codes, {(1, True)})
    task["private_test_cases"] = base64.b64encode(zlib.compress(pickle.dumps(print))).decode()
    refused("a pickle of a function", 1, ["private_test_cases", "no text"],
            lines("packed.jsonl", [task]), "--canonical")


def test_bad_usage():
    good, answers = tasks("humaneval"), lines("ok.jsonl", [{"task_id": ONE, "completion": ""}])
    refused("no tasks", 2, ["TASKS"], "-q")
    refused("three files", 2, ["unexpected"], good, good, good)
    refused("both kinds of answers", 2, ["--canonical"], good, "--canonical", "--completions",
            answers)
    refused("nothing to generate", 2, ["--generate-only"], good, "--canonical", "--generate-only")
    refused("an unknown postprocess", 2, ["'x'", "fence"], good, "--canonical", "--postprocess",
            "x")
    refused("an unknown language", 2, ["'cobol'"], good, "--canonical", "--language", "cobol")
    refused("k of 0", 2, ["--k"], good, "--canonical", "--k", "0")
    refused("k of nothing", 2, ["--k"], good, "--canonical", "--k", "1,,2")
    refused("a range of tasks", 2, ["--tasks"], good, "--canonical", "--tasks", "5-2")
    refused("no such tasks", 2, ["--tasks"], good, "--canonical", "--tasks", "50-60")
    refused("samples without temperature", 2, ["-n", "-t"], chat_model.write_model("m.gguf"), good,
            "-n", 2)
    refused("a time of -1", 2, ["--timeout"], good, "--canonical", "--timeout", -1)
    alone = os.path.join(PLACE, "alone")  # where no models/tiny.bin lies beside it
    os.makedirs(alone, exist_ok=True)
    shutil.copy(program("evaluate"), alone)
    refused("no model", 1, ["tiny.bin", "--completions"], good,
            executable=os.path.join(alone, "evaluate"))
    refused("a model that is none", 1, ["humaneval.jsonl", "GGUF"], good, good)
    refused("no directory", 1, ["directory"], good, "--canonical", "-o", "no/such/place")
    refused("a chat without markers", 1, ["<|im_start|>"],
            chat_model.write_model("plain.gguf", chat_model.RENAMED), good, "--chat")
    code, out, err = evaluate()
    check("no arguments: usage", code == 2 and "usage: evaluate" in err, short(err))
    code, out, err = evaluate("-h")
    check("-h", code == 0 and "--completions" in out and not err, short(out))


def test_bad_tasks():
    task = rows_of(tasks("humaneval"))[0]
    mbpp, plain = rows_of(tasks("mbpp"))[0], rows_of(tasks("plain"))[1]
    livecode, multiple = rows_of(tasks("livecode"))[0], rows_of(tasks("multiple"))[0]
    bad = [
        ("not there", None, ["no.jsonl", "cannot open"]),
        ("empty", [], ["no tasks"]),
        ("no JSON", [task, "{"], ["bad.jsonl:2", "JSON"]),
        ("two values in a line", ["{} {}"], ["bad.jsonl:1"]),
        ("a number", ["5"], ["bad.jsonl:1", "an object"]),
        ("an array of numbers", ["[1]"], ["item 1", "an object"]),
        ("an unknown kind", [{"task_id": "a", "prompt": "b"}], ["not a known kind"]),
        ("a name twice", [task, task], [ONE, "twice"]),
        ("an empty name", [{**task, "task_id": ""}], ["empty name"]),
        ("a prompt that is a number", [{**task, "prompt": 1}], ["prompt", "a string"]),
        ("no test", [{**mbpp, "test_list": []}], ["test_list", "empty"]),
        ("a test that is a number", [{**mbpp, "test_list": [1]}], ["test_list", "strings"]),
        ("a language", [{**multiple, "language": "cobol"}], ["cobol", "--languages"]),
        ("a packed list", [{**livecode, "private_test_cases": "eJx"}], ["private_test_cases"]),
        ("a broken list", [{**livecode, "private_test_cases": "[1"}], ["private_test_cases"]),
        ("a list of numbers", [{**livecode, "public_test_cases": [1]}], ["public_test_cases"]),
        ("no cases", [{**plain, "tests": []}], ["tests", "none"]),
        ("half a case", [{**plain, "tests": [{"input": ""}]}], ["tests", "output"]),
        ("a time of 0", [{**plain, "timeout": 0}], ["timeout", "above 0"]),
        ("a key twice", ['{"task_id": "a", "task_id": "b"}'], ["twice"]),
    ]
    for name, rows, mentions in bad:
        path = os.path.join(PLACE, "no.jsonl") if rows is None else lines("bad.jsonl", rows)
        refused(name, 1, mentions, path, "--canonical")
    refused("no examples for MBPP", 1, ["--zero-shot"], lines("bad.jsonl", [mbpp]),
            "--show-prompts")
    refused("no solutions", 1, ["no solutions"], lines("bad.jsonl", [
        {**task, "canonical_solution": ""}]), "--canonical")
    for name, rows, mentions in [
            ("an unknown task", [{"task_id": "Own/9", "completion": ""}], ["Own/9"]),
            ("another benchmark's number", [{"task_id": "Other/0", "completion": ""}], ["Other/0"]),
            ("no completion", [{"task_id": ONE}], ["completion", "missing"]),
            ("no name", [{"completion": ""}], ["name"]), ("no JSON", ["x"], ["answers.jsonl:1"]),
            ("nothing", [], ["no answers"])]:
        refused(f"answers: {name}", 1, mentions, tasks("humaneval"), "--completions",
                lines("answers.jsonl", rows))
    path = lines("array.jsonl", [json.dumps(rows_of(tasks("humaneval")), indent=1)])
    check_equal("tasks as one array", evaluate(path, "--canonical")[1], "3/3 100.0 %\n")


shutil.rmtree(PLACE, ignore_errors=True)
os.makedirs(PLACE)
test_canonical()
test_wrong()
test_languages()
test_missing()
test_output()
test_forms_of_answers()
test_pass_at_k()
test_prompts()
test_sanitize()
test_generate()
test_packed()
test_bad_usage()
test_bad_tasks()
end()
