#!/usr/bin/env python3
"""fuzz.py [--seconds N] [--runs N] TARGET...: `make fuzz`. Runs each target for that long, one
after the other, from its seeds, its regressions and what earlier runs have learned, with libFuzzer
or, where --built is build/afl, with AFL++. Prints a table: executions, executions a second, and
what was found.

What breaks a target is in build/fuzz/found/TARGET-*, or build/afl/TARGET.out/default/crashes;
build/fuzz/TARGET FILE shows it again. Once it is mended, the file belongs in
tests/fuzz/regressions/TARGET, where `make test` replays it. The exit code is 1 if anything was
found."""

import argparse
import os
import re
import shutil
import subprocess
import sys

from check import ROOT

FUZZ = os.path.join(ROOT, "tests", "fuzz")
LONGEST = {"gguf": 20000, "model": 20000, "hf": 32000, "safetensors": 8192, "torchzip": 8192,
           "llama2c": 8192, "llama2c_tokenizer": 8192, "sentencepiece": 8192, "archive": 4096,
           "notebook": 4096, "shards": 4096, "tokenizer": 512}  # bytes
TEXT = 1024  # of the others: more than any of their seeds, and four blocks of a reader
NUMBERS = re.compile(rb"stat::number_of_executed_units: (\d+)")
WRONG = re.compile(rb"(fuzz: run .*|ERROR: \w+Sanitizer: .*|runtime error: .*|"
                   rb"SUMMARY: libFuzzer: .*)")
QUIET = {"OMP_NUM_THREADS": "1",
         "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:quarantine_size_mb=16:"
                         "allocator_may_return_null=1:max_malloc_fill_size=0:symbolize=0",
         "UBSAN_OPTIONS": "symbolize=0"}  # pipes to a symbolizer would be files left open
AFL = {"AFL_NO_UI": "1", "AFL_NO_AFFINITY": "1", "AFL_SKIP_CPUFREQ": "1", "AFL_AUTORESUME": "1",
       "AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES": "1", "OMP_NUM_THREADS": "1",
       "ASAN_OPTIONS": QUIET["ASAN_OPTIONS"] + ":abort_on_error=1:"
                                               "hard_rss_limit_mb=3000",
       "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:symbolize=0"}


def longest(target):
    return LONGEST.get(target, TEXT)


def seeds_of(target):
    places = (os.path.join(FUZZ, kind, target) for kind in ("seeds", "regressions"))
    return [place for place in places if os.path.isdir(place)]


def words_of(target, option):
    words = os.path.join(FUZZ, target + ".dict")
    return [option + words] if os.path.exists(words) else []


def options_of(built, target, seconds, runs):
    learned = os.path.join(built, "corpus", target)
    found = os.path.join(built, "found")
    for place in (learned, found):
        os.makedirs(place, exist_ok=True)
    limits = [f"-max_total_time={seconds}"] if seconds else []
    limits += [f"-runs={runs}"] if runs else []
    return [*limits, *words_of(target, "-dict="), f"-max_len={longest(target)}",
            f"-artifact_prefix={found}/{target}-",
            "-timeout=10", "-rss_limit_mb=3000", "-malloc_limit_mb=1000", "-detect_leaks=0",
            "-print_final_stats=1", "-reload=0", "-entropic=0", learned, *seeds_of(target)]


def run(built, target, environment, *command):
    """Runs a fuzzer; what it says goes to TARGET.log, too."""
    done = subprocess.run(["nice", "-n", "10", *command], cwd=ROOT, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, **environment})
    with open(os.path.join(built, target + ".log"), "wb") as file:
        file.write(done.stdout + done.stderr)
    return done


def with_libfuzzer(built, target, seconds, runs):
    """Returns (executions, seconds, what was found or None)."""
    done = run(built, target, QUIET, os.path.join(built, target),
               *options_of(built, target, seconds, runs))
    number = NUMBERS.search(done.stderr)
    wrong = WRONG.search(done.stderr)
    spent = re.findall(rb"Done \d+ runs in (\d+) second", done.stderr)
    if done.returncode and not wrong:
        return 0, 0, f"exit code {done.returncode}; see {built}/{target}.log"
    return (int(number.group(1)) if number else 0, int(spent[-1]) if spent else 0,
            wrong.group(0).decode(errors="replace") if done.returncode else None)


def statistics_of(place):
    """What afl-fuzz says of itself, {} before it has run."""
    path = os.path.join(place, "default", "fuzzer_stats")
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return dict(map(str.strip, line.split(":", 1)) for line in file)


def with_afl(built, target, seconds, runs):
    """The same; afl-fuzz wants all that it begins with in one directory, and counts on where it
    had been stopped."""
    begin, place = (os.path.join(built, target + end) for end in (".in", ".out"))
    shutil.rmtree(begin, ignore_errors=True)
    for seeds in seeds_of(target):
        shutil.copytree(seeds, begin, dirs_exist_ok=True)
    before = statistics_of(place)
    limits = [*(["-V", str(seconds)] if seconds else []), *(["-E", str(runs)] if runs else [])]
    done = run(built, target, AFL, "afl-fuzz", "-i", begin, "-o", place, "-m", "none", "-t",
               "10000", "-G", str(longest(target)), *limits, *words_of(target, "-x"), "--",
               os.path.join(built, target))
    after = statistics_of(place)
    if done.returncode or not after:
        return 0, 0, f"exit code {done.returncode}; see {built}/{target}.log"
    number, spent = (int(after[key]) - int(before.get(key, 0))
                     for key in ("execs_done", "run_time"))
    wrong = ", ".join(f"{after['saved_' + what]} {what}" for what in ("crashes", "hangs")
                      if int(after["saved_" + what]))
    return number, spent, f"{wrong} in {place}/default" if wrong else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each target; 0: no limit")
    parser.add_argument("--runs", type=int, default=0, help="at most so many inputs")
    parser.add_argument("--built", default="build/fuzz", help="where the targets are [build/fuzz]")
    parser.add_argument("targets", nargs="+", metavar="TARGET")
    options = parser.parse_args()
    built = os.path.join(ROOT, options.built)
    fuzz = with_afl if os.path.basename(built) == "afl" else with_libfuzzer
    failed = False
    print(f"{'target':18} {'executions':>11} {'a second':>9}  finding")
    for target in options.targets:
        number, seconds, wrong = fuzz(built, target, options.seconds, options.runs)
        print(f"{target:18} {number:11,} {number // max(seconds, 1):9,}  {wrong or 'none'}",
              flush=True)
        failed |= wrong is not None
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
