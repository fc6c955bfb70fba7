#!/usr/bin/env python3
"""coverage.py [-v] [-k] [NAME...]: `make coverage`: which lines of the readers do the tests run?

The programs in build/coverage count what they run (gcc --coverage) and add it up, at their end, in
a file beside each object; gcov tells what was counted. The tests are those that read good files and
bad ones, and torture.py, which lets calls of the system fail. A header is compiled into many
objects: a line or a branch of it was run if it was in one of them. Counts are lost where a signal
or _exit ends a process.

    -v      also print the lines that never ran, and the branches that were never taken
    -k      keep the counts that are there, and run only the tests NAME on top of them, if any

The exit code is 1 if a test failed, a line never ran, or fewer branches were taken than promised
(R15 in bench/results/reliability.md). A branch is one of the ways on from a condition, each part of
&& and || too."""

import argparse
import collections
import glob
import json
import os
import subprocess
import sys

from check import ROOT

HERE = os.path.join("build", "coverage")
TESTS = ["torture", "test_format", "test_shards", "test_loader", "test_tokenizer", "badinput",
         "test_fuzz", "test_cli", "test_pack", "test_vocab", "test_trainloop", "test_train",
         "test_lora", "test_tiny"]
# Parsers, tokenizer, checkpoint. Writers of Hugging Face files are not among them.
SOURCES = ["opencoder.h", "gguf.h", "files.h", "json.h", "jsonwrite.h", "checkpoint.h", "shards.h",
           "loader.h", "lora.h", "tokenizer.c", *(f"export/{name}.c" for name in (
               "arena", "hf", "hfconfig", "hfvocab", "llama2c", "sentencepiece", "source",
               "stream", "torchzip", "unpickle"))]
BRANCHES = 95.0  # percent, at least; of the lines, all
ENVIRONMENT = {
    "OC_BIN": HERE, "OC_BAD_BIN": HERE, "OC_TESTS": f"{HERE}/tests", "OC_REPLAY": f"{HERE}/replay",
    "OC_SMALL": "1", "OC_FAULTS": "100", "OMP_NUM_THREADS": "2",
    "GCOV_ERROR_FILE": os.devnull}  # where a test has files fail, those with counts fail too

# What no count can show, by the text of the line, and why.
SIGNAL = "a handler, which ends with _exit; badinput_system.py looks at what it has done"
MISTAKE = "only a mistake in the program itself leads here, no file and no option"
UNREACHABLE = {
    "files.h": {
        "OC_API void out_of_map(int sig) {": SIGNAL,
        "_exit(write(2, text, sizeof text - 1) < 0 ? 1": SIGNAL,
        "OC_API void out_signal(int sig) {": SIGNAL,
        "out_remove_unfinished();\n    _exit": SIGNAL,
        "_exit(128 + sig);": SIGNAL},
    "gguf.h": {'die("%s: more tensor data written than announced", w->out.path);': MISTAKE},
    "checkpoint.h": {'die("new model: %s", e.text);': MISTAKE, 'die("%s", e.text);': MISTAKE},
    "tokenizer.c": {'die("text: a stretch of %zu bytes, expected less than 4 GiB at once", '
                    "e->text.n);": "it takes a text of 4 GiB and six times that in memory"},
}


def listed(name):
    """The numbers of a file's lines that are in UNREACHABLE, each with why; the text of a line may
    go on with the beginning of the next, where it alone is not enough."""
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        text = file.read()
    found = {}
    for part, why in UNREACHABLE.get(name, {}).items():
        if text.count(part) != 1:
            sys.exit(f"coverage.py: {name} has {text.count(part)} times, expected once: {part}")
        found[text.count("\n", 0, text.index(part)) + 1] = why
    return found


def count(path, lines, branches):
    """Adds what one object ran: lines[file, line] and branches[file, line, function, which]."""
    done = subprocess.run(["gcov", "--json-format", "--branch-probabilities", "--stdout", path],
                          cwd=ROOT, capture_output=True, text=True, check=True)
    for text in done.stdout.splitlines():
        for file in json.loads(text)["files"]:
            name = os.path.normpath(file["file"])
            for line in file["lines"] if name in SOURCES else []:
                place = name, line["line_number"]
                lines[place] += line["count"]
                taken = [b["count"] for b in line["branches"] if not b["throw"]]
                for i, n in enumerate(taken):
                    branches[(*place, line.get("function_name"), i)] += n


def percent(part, whole):
    return 100 * part / whole if whole else 100


def row(name, lines, branches):
    """One line of the table; returns the percentages of lines and branches."""
    run, taken = sum(n > 0 for n in lines), sum(n > 0 for n in branches)
    shares = percent(run, len(lines)), percent(taken, len(branches))
    print(f"{name:24} {len(lines):6} {run:6} {shares[0]:7.2f} % "
          f"{len(branches):8} {taken:6} {shares[1]:7.2f} %")
    return shares


def never(name, lines, branches):
    """What never ran in a file, in its order."""
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        text = file.read().splitlines()
    missed = collections.defaultdict(list)
    for (_, number, _, i), n in branches.items():
        if not n and lines[name, number]:
            missed[number].append(i)
    for number in sorted({number for (_, number), n in lines.items() if not n} | set(missed)):
        which = f"branch {', '.join(map(str, missed[number]))} " if number in missed else ""
        print(f"{name}:{number}: {which}never: {text[number - 1].strip()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-v", action="store_true", help="what never ran")
    parser.add_argument("-k", action="store_true", help="keep the counts that are there")
    parser.add_argument("names", nargs="*", metavar="NAME", help="tests [those of TESTS]")
    options = parser.parse_args()
    failed = 0
    if not options.k:
        for path in glob.glob(os.path.join(ROOT, HERE, "**", "*.gcda"), recursive=True):
            os.remove(path)
    tests = options.names or ([] if options.k else TESTS)
    if tests:
        os.umask(0)  # where a test gives up root's rights, its counts are written as well
        failed = subprocess.run([sys.executable, "tests/run_tests.py", "--timeout", "1800", *tests],
                                cwd=ROOT, env={**os.environ, **ENVIRONMENT}).returncode
    lines, branches = collections.Counter(), collections.Counter()
    for path in sorted(glob.glob(os.path.join(ROOT, HERE, "**", "*.gcda"), recursive=True)):
        count(path, lines, branches)
    print(f"\n{'':24} {'lines':>6} {'run':>6} {'':9} {'branches':>8} {'taken':>6}")
    for name in SOURCES:
        for number, why in listed(name).items():
            if lines.pop((name, number), 0):
                print(f"{name}:{number}: did run, though listed: {why}")
                failed = 1
            for place in [p for p in branches if p[:2] == (name, number)]:
                del branches[place]
    of = {name: ({p: n for p, n in lines.items() if p[0] == name},
                 {p: n for p, n in branches.items() if p[0] == name}) for name in SOURCES}
    for name, (its_lines, its_branches) in of.items():
        row(name, its_lines.values(), its_branches.values())
    run, taken = row("all", lines.values(), branches.values())
    n = sum(map(len, UNREACHABLE.values()))
    print(f"without {n} lines that no count can show; expected: all, {BRANCHES} % of branches")
    for name in SOURCES if options.v else []:
        never(name, *of[name])
    return 1 if failed or run < 100 or taken < BRANCHES else 0


if __name__ == "__main__":
    sys.exit(main())
