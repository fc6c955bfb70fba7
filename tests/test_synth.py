#!/usr/bin/env python3
"""Tests ./refine synth: prompts, every rule for what a model wrote on both sides, tests that prove
nothing and programs that cheat, duplicates, answers in a file, a run that goes on where it stopped,
and a model: a random one, whose answers are noise, so that nothing of them may stay."""

import collections
import json
import os
import signal
import subprocess
import time

from chat_model import write_model
from check import check, check_equal, end, program, short, skip, write_file
from refine_case import PLACE, REFINE, STRICT, documents, fresh, lines, refine, refused, stats_of

SEED = "def add(a, b):\n    return a + b + {}\n"
CODE = "def half(a):\n    \"\"\"Half of it.\"\"\"\n    return a // 2"
TESTS = "assert half(4) == 2\nassert half(5) == 2\nassert half(0) == 0"


def fenced(*parts):
    return "\n\n".join(f"```python\n{part}\n```" for part in parts)


def exercise(question="Write `half(a)`, which returns half of a whole number, rounded down.",
             code=CODE, tests=TESTS, answer="Divide it."):
    return f"## Question\n{question}\n\n## Answer\n{answer}\n\n{fenced(code)}\n\n" \
        f"## Tests\n{fenced(tests)}"


PROSE = ("Halving a number is the first step of many methods. It costs one operation, and what it "
         "leaves is smaller than what was there before. ")

OTHER = ("Sorting puts things into an order, after which a search may skip most of them at once, "
         "so that asking twenty times is enough for a list of a million entries. ")


def chapter(prose=PROSE, times=5, code=CODE, heads=2):
    text = "".join(f"# Part {i}\n\n" for i in range(heads))
    return text + "\n".join(f"{prose}This is said in line {i}." for i in range(times)) + \
        "\n\n" + fenced(code) + "\n"


def seeds(place, n, kind):
    if kind == "package":
        return lines(os.path.join(place, "seeds.jsonl"), *[
            {"package": "math", "name": "math.comb", "signature": "comb(n, k, /)",
             "doc": f"Ways to choose k of n. {i}"} for i in range(n)])
    return lines(os.path.join(place, "seeds.jsonl"), *[
        {"path": f"s{i}.py", "content": SEED.format(i)} for i in range(n)])


def sandboxed():
    _, _, err = refine("synth", seeds(fresh("synth-probe"), 1, "snippet"), "-k", "snippet",
                       "--completions", os.devnull)
    if err.startswith("error: sandbox"):
        skip("what is run", err.strip())
    return not err.startswith("error: sandbox")


def judge(kind, cases, *options):
    """Answers to as many seeds: (name, answer, None or why it is left out)."""
    place = fresh(f"synth-{kind}")
    path = seeds(place, len(cases), kind)
    given = lines(os.path.join(place, "a.jsonl"), *[
        {"seed": i, "completion": answer} for i, (_, answer, _) in enumerate(cases)])
    out = os.path.join(place, "out.jsonl")
    stages, _ = stats_of("synth", path, "-k", kind, "--completions", given, "-o", out,
                         "--rows", 256, "--timeout", 5, "-j", 8, *options)
    with open(out) as file:
        kept = [json.loads(line) for line in file]
    names = [d["seed"] for d in kept]
    for i, (name, _, why) in enumerate(cases):
        if kind != "package":
            check_equal(f"{kind}: {name}", f"s{i}.py" in names, why is None)
    found = {}
    for stage in stages.values():
        for why, count in stage["dropped"].items():
            found[why] = found.get(why, 0) + count["files"]
    check_equal(f"{kind}: reasons", found, dict(collections.Counter(w for _, _, w in cases if w)))
    return kept


def test_snippets():
    if not sandboxed():
        return
    own = "def half{0}(a):\n    '''Half of it {0}.'''\n    return a // 2 + {0} - {0}"
    mine = [own.format(i) for i in range(60)]

    def other(i, code=None, tests=TESTS):
        return fenced(*[part.replace("half(", f"half{i}(") for part in (code or mine[i], tests)])

    bad = "tests do more than call and compare"
    rows = [
        ("a good one", None, TESTS, None),
        ("functions of tests", None, "def test_it():\n    assert half(4) == 2\n"
         "    assert half(5) == 2\n    assert half(7) == 3", None),
        ("with a name", None,
         "x = half(9)\nassert x == 4\nassert half(x) == 2\nassert half(1) == 0", None),
        ("a loop", None, "for i in range(4):\n    assert half(i) == i // 2\nassert half(9) == 4\n"
         "assert half(8) == 4", None),
        ("an error that is wanted", None, TESTS + "\ntry:\n    half('x')\n    assert False\n"
         "except TypeError:\n    pass", None),
        ("an import", None, "import math\n" + TESTS + "\nassert half(math.floor(2.5)) == 1", None),
        ("a wrong answer", None, TESTS + "\nassert half(7) == 4", "tests: wrong answer"),
        ("an exception", None, TESTS + "\nassert half('x') == 1", "tests: exception"),
        ("two asserts", None, "assert half(4) == 2\nassert half(5) == 2",
         "fewer than three asserts about it"),
        ("asserts about nothing", None, "assert half(4) == 2\nassert 1 == 1\nassert True",
         "fewer than three asserts about it"),
        ("asserts that hold of anything", None, "assert half(4) is half(4)\n"
         "assert half(5) == half(5)\nassert not half(4) != half(4)",
         "tests: passed by a function that does nothing"),
        ("a caught assertion", None, TESTS + "\ntry:\n    assert half(4) == 3\n"
         "except AssertionError:\n    pass", bad),
        ("a bare except", None, TESTS + "\ntry:\n    assert half(4) == 3\nexcept:\n    pass", bad),
        ("os in the tests", None, "import os\n" + TESTS, None),
        ("exit in the tests", None, TESTS + "\nexit(0)\nassert half(1) == 5", bad),
        ("open in the tests", None, TESTS + "\nassert open('/etc/passwd') or half(1)", bad),
        ("a private attribute", None, TESTS + "\nassert half.__globals__", bad),
        ("a way to sys", None, "import re\n" + TESTS + "\nassert re.enum.sys or half(1)", bad),
        ("a way to what is private", None, "import operator\n" + TESTS +
         "\nassert operator.attrgetter('__code__')(half)", bad),
        ("a way to a frame", None, TESTS + "\nassert (x for x in ()).gi_frame.f_back or half(1)",
         bad),
        ("a way to code objects", None, "import copy\n" + TESTS + "\nassert copy.types or half(1)",
         bad),
        ("a text that is evaluated", None, "import typing\n" + TESTS + "\ndef test_it(*x: 'half'):"
         "\n    assert half(1) == 0\nassert typing.get_type_hints(test_it)", bad),
        ("__import__", None, TESTS + "\n__import__('os')._exit(0)", bad),
        ("a class in the tests", None, TESTS + "\ndef helper(): return half(1)", None),
        ("a syntax error", "def half(a:\n    return a", TESTS, "does not parse"),
        ("no function", "x = 5", "assert x == 5\nassert x > 4\nassert x < 6",
         "no function or class"),
        ("an empty body", "def half(a):\n    pass", TESTS, "empty body"),
        ("an endless loop", "def half(a):\n    while True: pass", TESTS, "tests: time limit"),
        ("exit", "import sys\ndef half(a):\n    sys.exit(0)", TESTS, "tests: exception"),
        ("exit at once", "import os\ndef half(a):\n    os._exit(0)", TESTS,
         "tests: broke the rules"),
        ("always equal", "class Y:\n    def __eq__(s, o): return True\ndef half(a):\n"
         "    return Y()", TESTS, "tests: wrong answer"),
        ("a module that is not here", "import nosuchmodule\ndef half(a):\n"
         "    return nosuchmodule.x(a)", TESTS, "tests: a module is not here"),
        ("a name that is not there", "def half(a):\n    return nosuchname(a)", TESTS,
         "tests: a name is not defined"),
    ]
    cases = []
    for i, (name, code, tests, why) in enumerate(rows):
        if name in ("os in the tests", "a class in the tests"):
            continue  # an import or a helper goes to the program: see below
        cases.append((name, other(len(cases), code, tests), why))
    kept = judge("snippet", cases)
    check("code and tests", kept[0]["content"].startswith("def half0(a)") and
          kept[0]["content"].endswith("assert half0(0) == 0\n") and "```" not in
          kept[0]["content"], kept[0])
    check_equal("its members", {k: kept[0][k] for k in ("language", "type", "source", "sample")},
                {"language": "Python", "type": "code", "source": "synthetic code snippet",
                 "sample": 0})
    more = [
        ("nothing fenced", "I would rather not.", "no fenced block of Python"),
        ("another language", "```c\nint half(int a) { return a / 2; }\n```",
         "no fenced block of Python"),
        ("cut off", fenced(mine[0]) + "\n```python\nassert ha", "cut off in a fenced block"),
        ("one block for all", fenced(mine[3] + "\n\n" + TESTS.replace("half(", "half3(")), None),
        ("prints and a main part", fenced(
            mine[4] + "\nprint(half4(3))\nif __name__ == '__main__':\n    print(1)",
            TESTS.replace("half(", "half4(")), None),
        ("two statements in a line", fenced(mine[5] + "\nassert half5(2) == 1; print(1)"),
         "two statements in a line"),
    ]
    kept = judge("snippet", more)
    check("prints are left out", not any("print" in d["content"] for d in kept), kept)
    refused("a pair of a snippet", 2, ["--as chat", "snippet"], "synth", "-k", "snippet", "--as",
            "chat", "-m", "x")


def test_exercises():
    if not sandboxed():
        return
    cases = [
        ("a good one", exercise(), None),
        ("other headings", exercise().replace("## Question", "# QUESTION:"), None),
        ("no headings", fenced(CODE, TESTS), "not in the form that was asked for"),
        ("a heading is missing", exercise().replace("## Tests", "And:"),
         "not in the form that was asked for"),
        ("a comment like a heading", exercise(tests="# Tests\n" + TESTS), None),
        ("a short question", exercise("Write `half(a)`."), "question is short or long"),
        ("no name", exercise("Write a function of a number, which returns half of what is given."),
         "question does not name the function"),
        ("a test fails", exercise(tests=TESTS + "\nassert half(3) == 2"), "tests: wrong answer"),
        ("no code", exercise().replace("```python\ndef", "```text\ndef"),
         "no fenced block of Python"),
    ]
    cases = [(n, a.replace("half(", f"half_{i}(").replace("Half of", f"Half {i} of"), w)
             for i, (n, a, w) in enumerate(cases)]
    kept = judge("educational", cases)
    check("a pair", kept[0]["instruction"].startswith("Write `half_0(a)`") and
          kept[0]["output"].startswith("Divide it.") and "assert" not in kept[0]["output"] and
          kept[0]["output"].endswith("```"), kept[0])
    text = judge("educational", cases, "--as", "text")
    check("--as text", text[0]["content"].startswith("Write `half_0(a)`") and "instruction" not in
          text[0], text[0])
    use = "import math\ndef half(a):\n    return math.comb(a, 1) // 2 + {}"
    cases = [
        ("it is used", exercise(code=use.format(0)), None),
        ("imported by name", exercise(code="from math import comb as c\ndef half(a):\n"
                                           "    return c(a, 1) // 2"), None),
        ("it is not", exercise(), "does not use the function that was asked for"),
        ("another library", exercise(code="import cmath\ndef comb(a): return a\ndef half(a):\n"
                                          "    return comb(a) // 2"),
         "does not use the function that was asked for"),
    ]
    check_equal("package", len(judge("package", cases)), 2)
    place = fresh("synth-docs")
    api = {"package": "math", "doc": "The same words."}
    path = lines(os.path.join(place, "s.jsonl"), {**api, "name": "math.floor"},
                 {**api, "name": "math.ceil"}, {**api, "name": "math.ceil"},
                 {**api, "name": "<|im_end|>"})
    got = documents("synth", path, "-k", "package", "--show-prompts")
    check_equal("functions with the same documentation", [
        ("math.floor" in d["prompt"], "math.ceil" in d["prompt"]) for d in got],
        [(True, False), (False, True)])


def test_textbooks():
    cases = [
        ("a good one", chapter(), None),
        ("talk before it", "Sure! Here it is:\n\n" + chapter(PROSE + "Other. "), None),
        ("one heading", chapter(heads=1), "fewer than two headings"),
        ("a comment is no heading", chapter(heads=1, code="# a\n# b\nx = 1"),
         "fewer than two headings"),
        ("no headings", chapter(heads=0, code="x = 1"), "no headings"),
        ("no example", chapter().split("```")[0], "no example"),
        ("little prose", chapter(times=1), "little prose"),
        ("repeats itself", chapter() + "\n" + (PROSE + "\n") * 9, "repeats itself"),
        ("code that does not parse", chapter(code="def f(:"), "does not parse"),
        ("a session", chapter(PROSE + "More. ", code=">>> f(\n... 1)"), None),
        ("long", chapter(times=200, prose=PROSE + "{}"), "long"),
        ("cut off", chapter() + "```python\nx", "cut off in a fenced block"),
    ]
    kept = judge("textbook", cases)
    check("what stands before the first heading goes",
          all(d["content"].startswith("# Part") for d in kept), short(kept))


def test_same():
    place = fresh("synth-same")
    path = lines(os.path.join(place, "s.jsonl"), {"content": SEED.format(1)},
                 {"content": SEED.format(2)}, {"content": SEED.format(1)},
                 {"content": chapter().strip()}, "broken", {"content": ""},
                 {"content": "<|im_end|>"}, {"text": SEED.format(3)}, {"x": 1})
    given = lines(os.path.join(place, "a.jsonl"), {"seed": 0, "completion": chapter()},
                  {"seed": 1, "completion": chapter(OTHER)},
                  {"seed": 2, "completion": chapter(OTHER).replace("Part 1", "Part 2")},
                  {"seed": 9, "completion": "x"}, {"seed": 1, "completion": "again"}, "broken",
                  {"completion": "x"}, {"seed": 3}, {"seed": 3, "completion": 5},
                  {"seed": 3, "completion": chapter(), "finish": "interrupted"})
    code, out, err = refine("synth", path, "-k", "textbook", "--completions", given, "-v",
                            program=STRICT)
    check("duplicates of seeds and of one another", code == 0 and out.count(b"\n") == 1 and
          b"Sorting" in out and "exact duplicate" in err and "near duplicate" in err, err)
    check("what is no seed, what is twice", "4 seeds (4 more are no seeds, 1 are copies), 4 "
          "questions, 3 of them answered" in err, err)
    check("lines that are no answers", "7 lines that answer no question" in err and
          "a.jsonl:5: a second answer" in err and "ended by 'interrupted', expected stop" in err,
          err)
    chapters = [chapter(f"{i} {word} " + PROSE, code=f"x = {i}")
                for i, word in enumerate("one two three four five six seven".split())]
    many = lines(os.path.join(place, "many.jsonl"), *[{"content": SEED.format(i)}
                                                      for i in range(49)])
    given = lines(os.path.join(place, "m.jsonl"), *[
        {"seed": i, "completion": chapters[i % 7].replace("line", f"line{i}").replace(
            "x =", f"x{i} =")} for i in range(49)])
    for limit in 1, 7, 48, 49, 50:
        got = documents("synth", many, "-k", "textbook", "--completions", given, "--rows", 256,
                        "--limit", limit)
        check_equal(f"--limit {limit} of 49", len(got), min(limit, 49))


def test_prompts():
    place = fresh("synth-prompts")
    path = seeds(place, 40, "snippet")
    for kind in ("snippet", "textbook", "educational"):
        got = documents("synth", path, "-k", kind, "--show-prompts", "--samples", 2)
        check(f"{kind}: the seed is in its prompt", len(got) == 80 and all(
            SEED.format(d["seed"]).strip() in d["prompt"] for d in got), len(got))
        check(f"{kind}: every key is another", len({d["key"] for d in got}) == 80)
        forms = {d["prompt"].replace(SEED.format(d["seed"]).strip(), "") for d in got}
        check(f"{kind}: several forms", len(forms) >= 4, len(forms))
        check(f"{kind}: a chat", all(
            d["prompt"].startswith("<|im_start|>system\nYou are OpenCoder") and
            d["prompt"].endswith("<|im_start|>assistant\n") for d in got))
    plain = documents("synth", path, "-k", "snippet", "--show-prompts", "--plain")
    check("--plain", all(d["prompt"].startswith("Here is some code:") for d in plain))
    got = documents("synth", seeds(place, 1, "package"), "-k", "package", "--show-prompts")
    check("package", all(word in got[0]["prompt"] for word in (
        "`math.comb`", "`math`", "comb(n, k, /)", "Ways to choose k of n.")), got)
    long_seed = lines(os.path.join(place, "l.jsonl"), {"content": "line of it\n" * 1000 + "\0é"})
    got = documents("synth", long_seed, "-k", "textbook", "--show-prompts", "--seed-bytes", 200)
    check("a long seed is cut at a line", got[0]["prompt"].count("line of it\n") == 18, got)
    long_line = lines(os.path.join(place, "l.jsonl"), {"content": "\n" + "x" * 1000})
    got = documents("synth", long_line, "-k", "textbook", "--show-prompts", "--seed-bytes", 200)
    check("within a line where little else would be left", got[0]["prompt"].count("x" * 199) == 1,
          got)
    marked = write_file(os.path.join(place, "b.jsonl"), b"\xef\xbb\xbf" + json.dumps(
        {"content": SEED.format(1)}).encode())
    check("a byte order mark", len(documents("synth", marked, "-k", "snippet",
                                             "--show-prompts")) == 1)


def test_model():
    """./refine synth with a model, ./run --prompts with the same prompts, and a stop in between."""
    place = fresh("synth-model")
    model = write_model("synth.gguf", ends=1.0)
    path = seeds(place, 6, "textbook")
    kept = os.path.join(place, "a.jsonl")
    base = ("synth", path, "-k", "textbook", "-m", model, "-n", 24, "--samples", 2)
    code, out, err = refine(*base, "--completions", kept)
    first = [json.loads(line) for line in open(kept)]
    check("noise is written and dropped", code == 0 and out == b"" and len(first) == 12, err)
    check("statistics", "0 of them answered" in err and "textbook" not in err.split("stage")[0] and
          "form" in err, err)
    check("answers differ", len({d["completion"] for d in first}) > 6, first)
    whole = open(kept, "rb").read()
    again = os.path.join(place, "b.jsonl")
    refine(*base, "--completions", again, "--batch", 3, "-q")
    by_key = {d["key"]: d["completion"] for d in first}
    check_equal("the same with another batch",
                {d["key"]: d["completion"] for d in map(json.loads, open(again))}, by_key)
    with open(again, "wb") as file:  # as a killed run leaves it
        file.write(whole[:len(whole) // 2])
    code, _, err = refine(*base, "--completions", again)
    check("a run goes on", code == 0 and
          0 < int(err.split(" of them answered")[0].split()[-1]) < 12, err)
    check_equal("with the same answers",
                {d["key"]: d["completion"] for d in map(json.loads, open(again))}, by_key)
    before = open(again, "rb").read()
    with open(again, "rb+") as file:  # a file of people's may have no line feed at its end
        file.truncate(os.path.getsize(again) - 1)
    refine(*base, "--completions", again, "-q")
    check_equal("a last line without a line feed is kept",
                {d["key"]: d["completion"] for d in map(json.loads, open(again))}, by_key)
    notes = write_file(os.path.join(place, "notes.txt"), b"{}\nmy notes")
    refused("a file that is none", 1, ["notes.txt", "my notes"], *base, "--completions", notes)
    check("is left as it is", open(notes, "rb").read() == b"{}\nmy notes")
    code, _, err = refine(*base, "--completions", again)
    check("nothing is written twice", code == 0 and open(again, "rb").read() == before and
          "12 of them answered" in err, err)
    refine(*base, "--completions", os.path.join(place, "c.jsonl"), "-s", 2, "-q")
    other = {d["key"]: d["completion"]
             for d in map(json.loads, open(os.path.join(place, "c.jsonl")))}
    check("another seed, other answers", other.keys() == by_key.keys() and other != by_key)
    prompts = os.path.join(place, "p.jsonl")
    refine("synth", path, "-k", "textbook", "--show-prompts", "-o", prompts, "-q")
    done = subprocess.run([program("run"), model, "--prompts", prompts, "-n", "24", "-q"],
                          capture_output=True)
    greedy = write_file(os.path.join(place, "d.jsonl"), done.stdout)
    mine = os.path.join(place, "e.jsonl")
    refine("synth", path, "-k", "textbook", "-m", model, "-n", 24, "-t", 0, "--completions", mine,
           "-q")
    check_equal("./run --prompts writes the same",
                {d["key"]: d["completion"] for d in map(json.loads, open(greedy))},
                {d["key"]: d["completion"] for d in map(json.loads, open(mine))})
    code, _, err = refine("synth", path, "-k", "textbook", "--completions", greedy)
    check("and is taken", code == 0 and "6 of them answered" in err, err)
    # Ctrl-C leaves whole lines.
    child = subprocess.Popen([REFINE, *map(str, base), "-n", "800", "--completions", kept + "2",
                              "-o", kept + "3"], stderr=subprocess.DEVNULL)
    for _ in range(100):
        time.sleep(0.05)
        if os.path.exists(kept + "2") and os.path.getsize(kept + "2"):
            break
    child.send_signal(signal.SIGINT)
    child.wait(20)
    check("Ctrl-C", child.returncode in (130, 0) and not [
        name for name in os.listdir(place) if "tmp" in name], (child.returncode, os.listdir(place)))
    random = write_model("synth-plain.gguf", markers=("\x01", "\x02"))
    refused("a model without a chat", 1, ["<|im_start|>", "--plain"], "synth", path, "-k",
            "textbook", "-m", random)
    code, _, err = refine("synth", path, "-k", "textbook", "-m", random, "--plain", "-n", 5)
    check("--plain", code == 0, err)
    code, _, err = refine("synth", path, "-k", "textbook", "-m", model, "-c", 200, "-n", 5)
    check("no room for a prompt", code == 0 and "cut off: no room" in err, err)


def test_usage():
    place = fresh("synth-usage")
    path = seeds(place, 2, "snippet")
    refused("no kind", 2, ["--kind", "textbook"], "synth", path)
    refused("another kind", 2, ["--kind", "'poem'"], "synth", path, "-k", "poem")
    refused("no model", 2, ["--model"], "synth", path, "-k", "snippet")
    refused("--as", 2, ["--as", "text or chat"], "synth", path, "-k", "snippet", "--as", "poem")
    refused("--resume", 2, ["--completions"], "synth", path, "-k", "snippet", "--resume")
    refused("a model that is none", 1, ["seeds.jsonl"], "synth", path, "-k", "textbook", "-m", path)
    refused("answers that are not there", 1, ["none.jsonl", "cannot open"], "synth", path, "-k",
            "textbook", "--completions", os.path.join(place, "none.jsonl"))
    refused("no seeds", 1, ["no seeds"], "synth", "-k", "snippet", "--show-prompts", stdin=b"{}\n")
    refused("seeds of another kind", 1, ["package, name and doc"], "synth", path, "-k", "package",
            "--show-prompts")
    refused("seeds are answers", 2, ["another name"], "synth", path, "-k", "snippet", "-m", "x",
            "--completions", path)
    refused("output is answers", 2, ["twice"], "synth", path, "-k", "textbook", "--completions",
            lines(os.path.join(place, "a.jsonl"), {}), "-o", os.path.join(place, "a.jsonl"))
    code, out, _ = refine("synth", "-h")
    check("-h shows examples", code == 0 and b"--show-prompts > prompts.jsonl" in out)


if __name__ == "__main__":
    os.makedirs(PLACE, exist_ok=True)
    test_snippets()
    test_exercises()
    test_textbooks()
    test_same()
    test_prompts()
    test_model()
    test_usage()
    end()
