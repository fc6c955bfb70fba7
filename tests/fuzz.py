#!/usr/bin/env python3
"""fuzz.py [--seconds N] [--runs N] TARGET...: `make fuzz`. Runs each target with libFuzzer for that
long, one after the other, from its seeds, its regressions and what earlier runs have learned
(build/fuzz/corpus). Prints a table: executions, executions a second, and what was found.

What breaks a target is in build/fuzz/found/TARGET-*; build/fuzz/TARGET FILE shows it again. Once it
is mended, the file belongs in tests/fuzz/regressions/TARGET, where `make test` replays it. The exit
code is 1 if anything was found."""

import argparse
import os
import re
import subprocess
import sys

from check import ROOT

FUZZ = os.path.join(ROOT, "tests", "fuzz")
BUILT = os.path.join(ROOT, "build", "fuzz")
LONGEST = {"gguf": 20000, "model": 20000, "hf": 32000, "safetensors": 8192, "torchzip": 8192,
           "llama2c": 8192, "llama2c_tokenizer": 8192, "sentencepiece": 8192, "signals": 1024,
           "tokenizer": 512, "pii": 1024}  # bytes; else 4096
NUMBERS = re.compile(rb"stat::number_of_executed_units: (\d+)")
WRONG = re.compile(rb"(fuzz: run .*|ERROR: \w+Sanitizer: .*|runtime error: .*|"
                   rb"SUMMARY: libFuzzer: .*)")


def options_of(target, seconds, runs):
    seeds = [os.path.join(FUZZ, kind, target) for kind in ("seeds", "regressions")]
    learned = os.path.join(BUILT, "corpus", target)
    found = os.path.join(BUILT, "found")
    words = os.path.join(FUZZ, target + ".dict")
    for place in (learned, found):
        os.makedirs(place, exist_ok=True)
    limits = [f"-max_total_time={seconds}"] if seconds else []
    limits += [f"-runs={runs}"] if runs else []
    return [*limits, *([f"-dict={words}"] if os.path.exists(words) else []),
            f"-max_len={LONGEST.get(target, 4096)}", f"-artifact_prefix={found}/{target}-",
            "-timeout=10", "-rss_limit_mb=3000", "-malloc_limit_mb=1000", "-detect_leaks=0",
            "-print_final_stats=1", "-reload=0", "-entropic=0", learned,
            *filter(os.path.isdir, seeds)]


def fuzz(target, seconds, runs):
    """Returns (executions, seconds, what was found or None)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1",
                   "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:"
                                   "quarantine_size_mb=16:allocator_may_return_null=1:"
                                   "max_malloc_fill_size=0"}
    done = subprocess.run(["nice", "-n", "10", os.path.join(BUILT, target),
                           *options_of(target, seconds, runs)],
                          cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    number = NUMBERS.search(done.stderr)
    wrong = WRONG.search(done.stderr)
    spent = re.findall(rb"Done \d+ runs in (\d+) second", done.stderr)
    with open(os.path.join(BUILT, target + ".log"), "wb") as file:
        file.write(done.stderr)
    if done.returncode and not wrong:
        return 0, 0, f"exit code {done.returncode}; see build/fuzz/{target}.log"
    return (int(number.group(1)) if number else 0, int(spent[-1]) if spent else 0,
            wrong.group(0).decode(errors="replace") if done.returncode else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each target; 0: no limit")
    parser.add_argument("--runs", type=int, default=0, help="at most so many inputs")
    parser.add_argument("targets", nargs="+", metavar="TARGET")
    options = parser.parse_args()
    failed = False
    print(f"{'target':18} {'executions':>11} {'a second':>9}  finding")
    for target in options.targets:
        number, seconds, wrong = fuzz(target, options.seconds, options.runs)
        print(f"{target:18} {number:11,} {number // max(seconds, 1):9,}  {wrong or 'none'}",
              flush=True)
        failed |= wrong is not None
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
