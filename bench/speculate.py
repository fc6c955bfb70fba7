#!/usr/bin/env python3
"""speculate.py: `make bench-speculate`. What speculation by lookup gains, and what it costs where
it gains nothing (it may cost 5 %).

First without a model: real texts are forced through speculate.h (bench/speculate.c), so that it is
known which proposals a perfect model would have taken. Edits are those of this repository's
history, a part of a file before as the prompt, after as the text; completion goes on with a file of
Python's library. A pass of n rows takes 1 + C (n - 1), for C from what memory-bound machines have
to what makes speculation useless. `spite` is a text that is never what lookup expects.
Then with a random model of the 1.5B's shape, whose greedy text falls into a loop, and which at
temperature 1 repeats nothing: ./run with and without, in turns, medians of the ratio."""

import argparse
import glob
import os
import statistics
import subprocess
import sys
import sysconfig

from common import ROOT, output_of, random_model, rates_in

SCRATCH = os.path.join(ROOT, "build", "speculate")
VOCAB = os.path.join(SCRATCH, "vocab.gguf")
LIBRARY = sysconfig.get_path("stdlib")


def write(name, text):
    path = os.path.join(SCRATCH, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def git(*arguments):
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def edits(most):
    """(before, after) of commits: 120 lines that begin 30 before the first that differs."""
    found = []
    names = [name for name in git("ls-files", "*.c", "*.h", "*.py", "*.md").split()
             if not name.endswith("unicode.h")]
    for name in names:
        for commit in git("log", "--format=%h", "-n", "3", "--", name).split():
            old, new = (git("show", f"{at}:{name}").splitlines(True)
                        for at in (commit + "^", commit))
            differs = [i for i, (a, b) in enumerate(zip(old, new)) if a != b]
            if old and differs:
                first = max(0, differs[0] - 30)
                found.append(("".join(old[first:first + 120]), "".join(new[first:first + 120])))
    return found[::max(1, len(found) // most)][:most]


def completions(most):
    """(beginning, what follows) of files of Python's library."""
    found = []
    for name in sorted(glob.glob(os.path.join(LIBRARY, "*.py")))[::5]:
        with open(name, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
        if len(lines) > 240:
            found.append(("".join(lines[:120]), "".join(lines[120:240])))
    return found[:most]


def forced(pairs, cost, noise, draft=(0, 0)):
    """((tokens a pass, accepted of proposed, median gain, least gain), lines about matches)"""
    files = []
    for i, (prompt, text) in enumerate(pairs):
        files.append(write(f"{i}.prompt", prompt))
        files.append(text if text in ("random", "spite") else write(f"{i}.text", text))
    lines = output_of("stdout", "build/bench_speculate", VOCAB, cost, noise, *draft,
                      *files).splitlines()
    rows = [line.split() for line in lines[:len(pairs)]]
    tokens, passes, proposed, accepted = (sum(int(row[i]) for row in rows) for i in range(2, 6))
    gains = [float(row[6]) for row in rows]
    return (tokens / passes, accepted / max(1, proposed), statistics.median(gains),
            min(gains)), lines[len(pairs):]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="default: a random 1.5B in q8_0, made once in build/")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="to generate in each round")
    parser.add_argument("--forced", action="store_true", help="only the part without a model")
    options = parser.parse_args()
    os.makedirs(SCRATCH, exist_ok=True)
    if not os.path.exists(VOCAB):
        output_of("stderr", "./tokenizer", "train", LIBRARY, "-o", VOCAB, "--vocab", "16384")
    before = completions(1)[0][0]
    kinds = {"edits": edits(40), "completion": completions(40), "random": [(before, "random")] * 5,
             "spite": [(before, "spite")] * 5}
    print("forced texts      C    noise   tokens a pass   accepted   gain: median   least")
    for kind, pairs in kinds.items():
        for cost in (0.02, 0.13, 0.5, 1.0) if pairs else ():
            for noise in 0, 0.3:
                (a_pass, accepted, median, least), matches = forced(pairs, cost, noise)
                print(f"{kind:12} {cost:6.2f} {noise:8.1f} {a_pass:12.2f} {accepted:12.0%} "
                      f"{median:12.2f} {least:10.2f}", flush=True)
        if pairs and kind in ("edits", "completion"):
            print(f"{kind}: lookup is right after", ", ".join(
                f"{n} equal tokens {int(found[3]) / int(found[5]):.0%}"
                for n, found in enumerate(map(str.split, matches), 1) if n in (1, 2, 4, 8, 16)))
    for accuracy in 0.9, 0.7, 0.5, 0.1:
        (a_pass, accepted, median, least), _ = forced(kinds["completion"], 0.05, 0.3,
                                                      (0.2, accuracy))
        print(f"completion, C 0.05, a draft that takes 0.2 and is right at {accuracy:.0%}: "
              f"{a_pass:.2f} tokens a pass, {accepted:.0%} accepted, gain {median:.2f}, least "
              f"{least:.2f}", flush=True)
    if options.forced:
        return
    model = options.model or "build/bench-1.5b-q8_0.gguf"
    if not options.model:
        random_model("1.5b", "q8_0", model)
    for name, more in (("greedy, in a loop", []), ("temperature 1", ["-t", 1, "-p", 1, "-s", 1])):
        gain = []
        for number in range(options.rounds):
            command = [model, "-i", "def fib(n):\n    return", "-n", options.tokens, *more]
            with_it, without = (rates_in(output_of("stderr", "./run", *command, *other)).rate
                                for other in ([], ["--speculate", 0]))
            gain.append(with_it / without)
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        print(f"{os.path.basename(model)}, {name}, {options.tokens} tokens: "
              f"{statistics.median(gain):.2f} times as fast (median of {options.rounds}, "
              f"{min(gain):.2f} to {max(gain):.2f})", flush=True)


if __name__ == "__main__":
    main()
