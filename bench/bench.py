#!/usr/bin/env python3
"""bench.py: `make bench`. How fast ./run is, against what this machine can do at most.

Decode reads every weight once for each token, so it is compared with the read bandwidth; a prompt
uses each weight for many tokens, so it is compared with the peak of the fastest multiply-add that
suits its type. The machine, decode and prompt are measured in turns, several rounds of each,
because other programs may run beside us; the table gives medians. The models have random weights
in the 1.5B's shape, and are made and removed one at a time: 8 GB of disk for f32, 2 for q8_0."""

import argparse
import os
import statistics
import sys
import time

from common import ROOT, inspect, machine, output_of, peak, processor, random_model, rates_in

TYPES = "q8_0,q4_0,bf16,f32"


def rates(*arguments):
    return rates_in(output_of("stderr", "./run", *arguments))


def prompt_file(length):
    """A file with the first bytes of run.c."""
    path = os.path.join("build", "bench-prompt.txt")
    with open(os.path.join(ROOT, "run.c"), encoding="utf-8") as source:
        text = source.read(length)
    with open(os.path.join(ROOT, path), "w", encoding="utf-8") as file:
        file.write(text)
    return path


def measure(model, prompt, options):
    """The table's row of one model."""
    limits, decode, prefill = [], [], []
    for number in range(options.rounds):
        limits.append(machine(512))
        decode.append(rates(model, "-i", "def fib", "-n", options.tokens))
        prefill.append(rates(model, "-f", prompt, "-n", 1))
        print(f"{model}: round {number + 1} of {options.rounds}", file=sys.stderr)
    weights = inspect(model)
    name = peak(limits[0], weights.type)[0]
    read, peaks, rate, gigabytes, prompt_rate = map(statistics.median, (
        [limit.read for limit in limits], [peak(limit, weights.type)[1] for limit in limits],
        [run.rate for run in decode], [run.gigabytes for run in decode],
        [run.prompt_rate for run in prefill]))
    used = 2e-9 * (weights.multiplied - weights.head) * prompt_rate
    return (f"| {weights.type} | {rate:.2f} | {gigabytes:.1f} of {read:.1f} GB/s | "
            f"{gigabytes / read:.0%} | {prefill[0].prompt:.0f} | {prompt_rate:.1f} | "
            f"{used:.0f} of {peaks:.0f} GOP/s, {name} | {used / peaks:.0%} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", default=[],
                        help="a file to measure in place of the random ones; repeatable")
    parser.add_argument("--types", default=TYPES, help=f"of the random models [{TYPES}]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="to generate")
    parser.add_argument("--prompt", type=int, default=1000, help="bytes of source code")
    options = parser.parse_args()
    prompt, limits = prompt_file(options.prompt), machine(512)
    print(f"make bench, {time.strftime('%Y-%m-%d')}, {processor()}, {limits.threads:.0f} threads, "
          f"medians of {options.rounds} rounds\n\n"
          "| type | decode, tok/s | reads | of the bandwidth | prompt, tokens | prompt, tok/s | "
          "computes | of the peak |\n|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for model in options.model:
        print(measure(model, prompt, options), flush=True)
    for storage in [] if options.model else options.types.split(","):
        model = f"build/bench-1.5b-{storage}.gguf"
        random_model("1.5b", storage, model)
        try:
            print(measure(model, prompt, options), flush=True)
        finally:
            os.unlink(os.path.join(ROOT, model))


if __name__ == "__main__":
    main()
