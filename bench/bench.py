#!/usr/bin/env python3
"""bench.py: `make bench`. How fast ./run is, against what this machine can do at most.

Decode reads every weight once for each token, so it is compared with the read bandwidth; a prompt
uses each weight for many tokens, so it is compared with the float32 multiply-add peak (integer
dot products may exceed that). The machine, decode and prompt are measured in turns, several
rounds of each, because other programs may run beside us; the table gives medians."""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RATES = re.compile(r"prompt (\d+) tokens ([\d.]+) tok/s, "
                   r"generated (\d+) tokens ([\d.]+) tok/s, ([\d.]+) GB/s")
MACHINE = re.compile(r"read ([\d.]+) GB/s, multiply-add ([\d.]+) GFLOP/s, (\d+) threads")


def output_of(stream, *command):
    """What a command writes to "stdout" or "stderr"; ends the benchmark if it fails."""
    done = subprocess.run([str(word) for word in command], cwd=ROOT, text=True, errors="replace",
                          capture_output=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))}: exit code {done.returncode}: "
                 f"{done.stderr.strip()}")
    return done.stdout if stream == "stdout" else done.stderr


def rates(*arguments):
    """(prompt tokens, their rate, generated tokens, their rate, GB/s) of one start of ./run."""
    text = output_of("stderr", "./run", *arguments)
    found = RATES.search(text.strip().splitlines()[-1] if text.strip() else "")
    if not found:
        sys.exit(f"error: ./run: the last line on stderr is not about rates: {text!r}")
    return [float(number) for number in found.groups()]


def inspect_size(model):
    """Parameters that a token is multiplied with: two operations each."""
    text = output_of("stdout", "./convert", "--inspect", model)
    found = re.search(r"([\d,]+) parameters", text)
    return int(found.group(1).replace(",", "")) if found else None


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return re.search(r"model name\s*:\s*(.*)", file.read()).group(1)
    except (OSError, AttributeError):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="default: a random 1.5B in q8_0, made once in build/")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="to generate")
    parser.add_argument("--prompt", type=int, default=1000, help="bytes of source code")
    options = parser.parse_args()
    model = options.model or "build/bench-1.5b-q8_0.gguf"
    if not options.model and not os.path.exists(os.path.join(ROOT, model)):
        output_of("stdout", "./convert", "--random", "1.5b", model, "-q", "q8_0", "--seed", 1)
    prompt = os.path.join(ROOT, "build", "bench-prompt.txt")
    with open(os.path.join(ROOT, "run.c"), encoding="utf-8") as source:
        text = source.read(options.prompt)
    with open(prompt, "w", encoding="utf-8") as file:
        file.write(text)

    read, flops, decode, bytes_read, prefill = [], [], [], [], []
    for number in range(options.rounds):
        machine = MACHINE.search(output_of("stdout", "build/machine"))
        read.append(float(machine.group(1)))
        flops.append(float(machine.group(2)))
        _, _, generated, rate, gigabytes = rates(model, "-i", "def fib", "-n", options.tokens)
        decode.append(rate)
        bytes_read.append(gigabytes)
        prompt_tokens, rate, *_ = rates(model, "-f", prompt, "-n", 1)
        prefill.append(rate)
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    parameters = inspect_size(model)
    read, flops, decode, bytes_read, prefill = map(
        statistics.median, (read, flops, decode, bytes_read, prefill))
    print(f"make bench, {time.strftime('%Y-%m-%d')}, {processor()}, {machine.group(3)} threads, "
          f"{os.path.basename(model)}, medians of {options.rounds} rounds")
    print(f"machine      {read:8.2f} GB/s read   {flops:8.1f} GFLOP/s multiply-add")
    print(f"decode       {decode:8.2f} tok/s       {bytes_read:8.2f} GB/s, "
          f"{bytes_read / read:.0%} of the bandwidth   ({generated:.0f} tokens)")
    used = f"{2e-9 * parameters * prefill:8.1f} GFLOP/s, " \
           f"{2e-9 * parameters * prefill / flops:.0%} of the float32 peak" if parameters else ""
    print(f"prompt       {prefill:8.2f} tok/s       {used}   ({prompt_tokens:.0f} tokens, "
          f"{prefill / decode:.1f} times decode)")


if __name__ == "__main__":
    main()
