#!/usr/bin/env python3
"""refine.py: how fast the stages of ./refine are.

    make refine && python bench/refine.py SOURCES... [--near-files N] [--keep DIR]

SOURCES (directories, archives) are read once; then each stage runs alone, on one thread, from a
file to a file, on what the stage before it in the chain has let pass. MB/s are bytes of content
that came in, per second of processor time, reading and writing of JSON Lines included: what one
core does. The last lines are for the whole chain, once without parsers on one thread, and for near
duplicates of N files on all threads."""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time

from common import ROOT, processor

Run = collections.namedtuple("Run", "seconds processor memory stages")
TASK = {"prompt": "def is_this_a_name_that_nobody_uses():", "entry_point": "is_this_a_name"}


def refine(place, *words, out=os.devnull):
    """Runs a command; its time, its processor time with that of its children, its memory."""
    stats = os.path.join(place, "stats.json")
    command = [os.path.join(ROOT, "refine"), *map(str, words), "-q", "--stats", stats]
    begun = time.monotonic()
    with open(out, "wb") as file:
        child = subprocess.Popen(command, stdout=file)
        _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - begun
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"error: {' '.join(command)}: exit code {child.returncode}, expected 0")
    with open(stats, encoding="utf-8") as file:
        stages = json.load(file)["stages"]
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, stages)


def row(name, run):
    first, last = run.stages[0], run.stages[-1]
    megabytes = first["in"]["bytes"] / 1e6
    print(f"{name:24} {first['in']['files']:8} {megabytes:9.1f} {last['out']['files']:8} "
          f"{run.seconds:8.2f} {run.processor:8.2f} {megabytes / run.processor:8.1f} "
          f"{run.memory / 1e6:7.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("sources", nargs="+", metavar="SOURCES")
    parser.add_argument("--near-files", type=int, default=0, metavar="N",
                        help="near duplicates of so many files, made of the sources")
    parser.add_argument("--only", default="", help="comma-separated stages; default: all")
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    with tempfile.TemporaryDirectory() as place:
        task = os.path.join(place, "task.jsonl")
        with open(task, "w", encoding="utf-8") as file:
            print(json.dumps(TASK), file=file)
        print(f"bench/refine.py, {time.strftime('%Y-%m-%d')}, {processor()}")
        print(f"{'stage, one thread':24} {'files in':>8} {'MB in':>9} {'out':>8} {'s':>8} "
              f"{'cpu s':>8} {'MB/s':>8} {'MB mem':>7}")
        chain = [("read", ["read", *options.sources]), ("dedup --exact", ["dedup", "--exact"]),
                 ("dedup --near", ["dedup", "--near"]), ("transform", ["transform"]),
                 ("filter --no-parse", ["filter", "--no-parse"]), ("filter", ["filter"]),
                 ("sample", ["sample"]), ("decontaminate", ["decontaminate", "-a", task])]
        source = None
        for name, words in chain:
            target = os.path.join(place, name.replace(" ", "") + ".jsonl")
            run = refine(place, *words, *([source] if source else []), "-j", 1, out=target)
            if not only or name in only:
                row(name, run)
            if name != "filter --no-parse":  # the same files go through the parsers next
                source = target
        row("all --no-parse", refine(place, "all", *options.sources, "-a", task, "--no-parse",
                                     "-j", 1))
        row("all, all threads", refine(place, "all", *options.sources, "-a", task))
        if options.near_files:
            many = os.path.join(place, "many.jsonl")
            with open(os.path.join(place, "read.jsonl"), encoding="utf-8") as file, \
                    open(many, "w", encoding="utf-8") as out:
                lines = file.readlines()
                for i in range(options.near_files):
                    record = json.loads(lines[i % len(lines)])
                    turn = i // len(lines)  # a copy has every line of its own turn
                    if turn:
                        record["content"] = record["content"].replace("\n", f" t{turn}\n")
                    record["path"] = f"{turn}/{record['path']}"
                    print(json.dumps(record), file=out)
            row("dedup, all threads", refine(place, "dedup", many))


if __name__ == "__main__":
    main()
