#!/usr/bin/env python3
"""bench.py: `make bench`. How fast ./run is, against what this machine can do at most.

Decode reads every weight once for each token, so it is compared with the read bandwidth; a prompt
uses each weight for many tokens, so it is compared with the peak of the fastest multiply-add that
suits its type. The machine, decode and prompt are measured in turns, several rounds of each,
because other programs may run beside us; the table gives medians."""

import argparse
import os
import statistics
import sys
import time

from common import ROOT, inspect, machine, output_of, peak, processor, random_model, rates_in


def rates(*arguments):
    return rates_in(output_of("stderr", "./run", *arguments))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="default: a random 1.5B in q8_0, made once in build/")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="to generate")
    parser.add_argument("--prompt", type=int, default=1000, help="bytes of source code")
    options = parser.parse_args()
    model = options.model or "build/bench-1.5b-q8_0.gguf"
    if not options.model:
        random_model("1.5b", "q8_0", model)
    prompt = os.path.join(ROOT, "build", "bench-prompt.txt")
    with open(os.path.join(ROOT, "run.c"), encoding="utf-8") as source:
        text = source.read(options.prompt)
    with open(prompt, "w", encoding="utf-8") as file:
        file.write(text)

    limits, decode, prefill = [], [], []
    for number in range(options.rounds):
        limits.append(machine())
        decode.append(rates(model, "-i", "def fib", "-n", options.tokens))
        prefill.append(rates(model, "-f", prompt, "-n", 1))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    weights = inspect(model)
    name = peak(limits[0], weights.type)[0]
    read, peaks, rate, gigabytes, prompt_rate = map(statistics.median, (
        [limit.read for limit in limits], [peak(limit, weights.type)[1] for limit in limits],
        [run.rate for run in decode], [run.gigabytes for run in decode],
        [run.prompt_rate for run in prefill]))
    used = 2e-9 * (weights.multiplied - weights.head) * prompt_rate
    print(f"make bench, {time.strftime('%Y-%m-%d')}, {processor()}, {limits[0].threads:.0f} "
          f"threads, {os.path.basename(model)}, medians of {options.rounds} rounds")
    print(f"machine      {read:8.2f} GB/s read   {peaks:8.1f} GOP/s multiply-add in {name}")
    print(f"decode       {rate:8.2f} tok/s       {gigabytes:8.2f} GB/s, "
          f"{gigabytes / read:.0%} of the bandwidth   ({decode[0].generated:.0f} tokens)")
    print(f"prompt       {prompt_rate:8.2f} tok/s       {used:8.1f} GOP/s, "
          f"{used / peaks:.0%} of the {name} peak   ({prefill[0].prompt:.0f} tokens, "
          f"{prompt_rate / rate:.1f} times decode)")


if __name__ == "__main__":
    main()
