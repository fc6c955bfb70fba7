#!/usr/bin/env python3
"""eval_model.py: a model of our own from nothing to a score, in some minutes on two cores.

    make && bench/eval_model.py [--steps N]

Writes 6000 documents of small functions such as plus_17(x), learns a vocabulary from them, trains
a model of a million weights, and lets ./evaluate grade it on functions whose numbers it has never
seen with that operation: greedy, then ten samples a task. Everything stays in build/eval-model."""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys

from common import ROOT

PLACE = os.path.join(ROOT, "build", "eval-model")
OPERATIONS = {
    "plus": ("x + {}", lambda x, n: x + n), "minus": ("x - {}", lambda x, n: x - n),
    "times": ("x * {}", lambda x, n: x * n), "modulo": ("x % {}", lambda x, n: x % n),
    "at_least": ("max(x, {})", max), "at_most": ("min(x, {})", min),
    "is_more_than": ("x > {}", lambda x, n: x > n), "list_of": ("[x] * {}", lambda x, n: [x] * n),
}
NUMBERS = range(1, 100)
DOCUMENTS, FUNCTIONS, TASKS = 6000, 4, 8  # functions of a document; tasks of an operation


def header(name, n):
    return f'def {name}_{n}(x):\n    """ {name.replace("_", " ").capitalize()} {n}. """\n'


def body(name, n):
    return f"    return {OPERATIONS[name][0].format(n)}\n"


def task(number, name, n):
    """In HumanEval's form; long lists would only fill the file."""
    values = (0, 1, 7) if name == "list_of" else (0, 1, 7, 50, 1000)
    tests = "".join(f"    assert candidate({x}) == {OPERATIONS[name][1](x, n)!r}\n" for x in values)
    return {"task_id": f"Small/{number}", "prompt": header(name, n), "entry_point": f"{name}_{n}",
            "canonical_solution": body(name, n), "test": f"def check(candidate):\n{tests}"}


def write_lines(name, rows):
    with open(os.path.join(PLACE, name), "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def make_data():
    rng = random.Random(1)
    pairs = [(name, n) for name in OPERATIONS for n in NUMBERS]
    held = {pair for pair in pairs if rng.random() < 0.2}
    seen = [pair for pair in pairs if pair not in held]
    write_lines("train.jsonl", ({"text": "\n\n".join(
        header(*pair) + body(*pair) for pair in rng.choices(seen, k=FUNCTIONS))}
        for _ in range(DOCUMENTS)))
    chosen = [pair for name in OPERATIONS
              for pair in [pair for pair in pairs if pair in held and pair[0] == name][:TASKS]]
    write_lines("tasks.jsonl", (task(i, *pair) for i, pair in enumerate(chosen)))


def run(*words):
    print("$", *words, flush=True)
    done = subprocess.run([os.path.join(ROOT, words[0]), *map(str, words[1:])], cwd=PLACE)
    if done.returncode:
        sys.exit(f"error: {words[0]}: exit code {done.returncode}, expected 0")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=500)
    steps = parser.parse_args().steps
    shutil.rmtree(PLACE, ignore_errors=True)
    os.makedirs(PLACE)
    make_data()
    run("tokenizer", "train", "train.jsonl", "-o", "vocab.gguf", "--vocab", 400)
    run("tokenizer", "pack", "train.jsonl", "-o", "train.tok", "--tokenizer", "vocab.gguf")
    run("train", "pretrain", "train.tok", "--tokenizer", "vocab.gguf", "--dim", 128,
        "--hidden", 384, "--layers", 4, "--heads", 4, "--kv-heads", 2, "--head-dim", 32,
        "--ctx", 512, "--tied",
        "--steps", steps, "--batch", 8, "--seq-len", 256, "--lr", 3e-3, "-o", "base.bin")
    run("evaluate", "base.bin", "tasks.jsonl")
    run("evaluate", "base.bin", "tasks.jsonl", "-n", 10, "-t", 0.8)


if __name__ == "__main__":
    main()
