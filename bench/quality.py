#!/usr/bin/env python3
"""quality.py MODEL.gguf TEXT: what each storage type costs a trained model, as a Markdown table.

    python3 bench/quality.py model.f32.gguf heldout.txt --file q4_k=model-q4_k.gguf

MODEL holds float32 weights. It is converted to every type that convert writes; files of the other
types, made from the same weights by somebody else's program, come with --file NAME=FILE, and so
does a file of an older convert. Two losses are told apart, each as KL in nats a token:

    all of it   KL(MODEL exact || file): weights rounded and activations rounded
    fast path   KL(file exact || file): activations alone; DESIGN limits it, and says on what model

The text is to be unseen and of a few thousand tokens: every file is run four times."""

import argparse
import datetime
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WRITTEN = ["bf16", "f16", "q8_0", "q4_0"]
LIMIT = {"bf16": 1e-3, "q8_0": 1e-3}  # of the fast path's KL; 5e-3 for the others
LIMIT_PERPLEXITY = 0.2  # percent
AGAINST = re.compile(r"perplexity ([\d.]+), .* (\d+) tokens, .*\nagainst .*: KL ([\d.]+) nats a "
                     r"token \(largest ([\d.]+)\), same top token ([\d.]+) %, perplexity "
                     r"([\d.]+), ours ([-+][\d.]+) %\n")


def output_of(*command):
    done = subprocess.run([str(word) for word in command], cwd=ROOT, text=True, errors="replace",
                          capture_output=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))}: exit code {done.returncode}: "
                 f"{done.stderr.strip()}")
    return done.stdout


def compare(file, base, text, options):
    """(perplexity, tokens, KL, largest KL, same top token, base's perplexity, ours in %)"""
    output = output_of("./run", file, "--perplexity", text, "--against", base, "-q", *options)
    found = AGAINST.match(output)
    if not found:
        sys.exit(f"error: ./run: no line about {base}: {output!r}")
    return [float(number) for number in found.groups()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--types", default=",".join(WRITTEN), help="of those that convert writes")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=FILE",
                        help="one that exists; repeatable")
    parser.add_argument("--run-options", default="", help="for the measured run: '--cache q8_0'")
    given = parser.parse_args()
    options = given.run_options.split()
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for kind in filter(None, given.types.split(",")):
            files.append((kind, os.path.join(scratch, kind + ".gguf")))
            output_of("./convert", given.model, files[-1][1], "-q", kind)
        files += [word.split("=", 1) for word in given.file if "=" in word]
        print(f"{os.path.basename(given.model)}, {os.path.basename(given.text)}, "
              f"{datetime.date.today()}, run options: {given.run_options or 'none'}\n")
        print("| type | MB | perplexity | of f32 | KL, all of it | largest | same top token | "
              "KL, fast path | of exact | within |\n|---|---|---|---|---|---|---|---|---|---|")
        for name, file in files:
            ours, _, kl, largest, same, _, percent = compare(file, given.model, given.text, options)
            _, _, fast, _, _, _, fast_percent = compare(file, file, given.text, options)
            within = (fast <= LIMIT.get(name.split()[0], 5e-3) and
                      abs(fast_percent) <= LIMIT_PERPLEXITY)
            print(f"| {name} | {os.path.getsize(file) / 1e6:.2f} | {ours:.4f} | {percent:+.3f} % | "
                  f"{kl:.6f} | {largest:.4f} | {same:.2f} % | {fast:.6f} | {fast_percent:+.3f} % | "
                  f"{'yes' if within else 'NO'} |", flush=True)


if __name__ == "__main__":
    main()
