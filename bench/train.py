#!/usr/bin/env python3
"""train.py: `make bench-train`. How fast a training step is, against this machine and PyTorch.

The machine's multiply-add peak, our step (bench/train_step.c) and PyTorch's (bench/train_peer.py,
eager and compiled) are measured in turns, several rounds of each, never two at a time, because
other programs may run beside us; the table gives medians, ratios are medians of those of a round.
Without torch there is ours alone. --python names a Python that has it.

A step is forward, backward, clipping and AdamW of all weights. Its floating-point operations are
counted as tokens x (6 x weights that are multiplied + 6 L C T): two for each weight and token
forward and four backward, and attention's, of which the causal mask leaves half."""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

from common import ROOT, machine, processor

SHAPE = dict(dim=512, hidden=1536, layers=8, heads=8, kv_heads=8, head_dim=64, vocab=8192)
# What PyTorch frees stays with the process, instead of coming back as page faults in every step.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


class Process:
    """A program that says `ready ...` and then answers a line with the seconds of one step."""

    def __init__(self, *command, **more):
        environment = {**os.environ, **more}
        self.spun = self.waited = 0.0
        self.errors = tempfile.TemporaryFile("w+")
        try:
            self.child = subprocess.Popen([str(word) for word in command], cwd=ROOT, text=True,
                                          env=environment, stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE, stderr=self.errors)
        except OSError as error:
            self.child, self.about, self.why = None, None, error.strerror
            return
        line = self.child.stdout.readline()
        self.about = line.removeprefix("ready ").strip() if line.startswith("ready") else None
        if self.about is None:
            self.why = self.last_words()
        self.rested = self.clock()

    def last_words(self):
        self.child.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return lines[-1] if lines else f"exit code {self.child.returncode}"

    def clock(self):
        """Processor seconds so far, and the time."""
        try:
            with open(f"/proc/{self.child.pid}/stat", encoding="utf-8") as file:
                ticks = file.read().rpartition(")")[2].split()[11:13]
            return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), time.monotonic()
        except OSError:
            return 0.0, time.monotonic()

    def step(self, word=""):
        """The seconds of one step, and the processor's seconds."""
        used, now = self.clock()
        self.spun += used - self.rested[0]
        self.waited += now - self.rested[1]
        self.child.stdin.write(word + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline().split()
        if not answer:
            sys.exit(f"error: {self.child.args[0]}: no answer: {self.last_words()}")
        self.rested = self.clock()
        return float(answer[0]), self.rested[0] - used

    def close(self):
        if self.child and self.about is not None:
            self.child.stdin.close()
            self.child.wait()


def operations(batch, length):
    """Floating-point operations of one step."""
    s = SHAPE
    width = s["heads"] * s["head_dim"]
    layer = 2 * s["dim"] * (width + s["kv_heads"] * s["head_dim"]) + 3 * s["dim"] * s["hidden"]
    weights = s["layers"] * layer + s["dim"] * s["vocab"]
    return batch * length * (6 * weights + 6 * s["layers"] * width * length)


def start(name, *command, **more):
    process = Process(*command, **more)
    if process.about is None:
        print(f"{name}: left out ({process.why})", file=sys.stderr)
        return None
    print(f"{name}: {process.about}", file=sys.stderr)
    return process


def measure(steppers, rounds):
    """{name: (seconds, processor seconds) of every round}, and the machine's operations per second
    in every round."""
    seconds, peak = {name: [] for name in steppers}, []
    for number in range(rounds):
        limit = machine(64)
        peak.append(1e9 * limit.float32)
        for name, (process, word) in steppers.items():
            seconds[name].append(process.step(word))
        print(f"round {number + 1} of {rounds}: {peak[-1] / 1e9:.1f} GFLOP/s, " +
              ", ".join(f"{name} {taken[-1][0]:.3f} s" for name, taken in seconds.items()),
              file=sys.stderr)
    return seconds, peak, int(limit.threads)


def report(seconds, peak, threads, options):
    flops, tokens = operations(options.batch, options.length), options.batch * options.length
    print(f"make bench-train, {time.strftime('%Y-%m-%d')}, {processor()}, {threads} threads, "
          f"medians of {options.rounds} rounds")
    print(" ".join(f"{key} {value}" for key, value in SHAPE.items()) +
          f", batch {options.batch} x {options.length}, {flops / 1e9:.1f} GFLOP a step")
    print(f"machine {statistics.median(peak) / 1e9:41.1f} GFLOP/s multiply-add")
    work = {name: statistics.median(s[1] for s in taken) for name, taken in seconds.items()}
    seconds = {name: [s[0] for s in taken] for name, taken in seconds.items()}
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        share = statistics.median(flops / s / p for s, p in zip(taken, peak))
        print(f"{name:8} {1e3 * middle:9.1f} ms a step {tokens / middle:9.0f} tok/s "
              f"{flops / middle / 1e9:8.1f} GFLOP/s, {share:4.0%} of the peak, "
              f"{work[name]:.2f} s of processor time")
    ours = [name for name in seconds if name.startswith("ours")]
    for name in ours:
        for peer in seconds:
            if peer not in ours:
                ratio = statistics.median(p / o for p, o in zip(seconds[peer], seconds[name]))
                print(f"{name} / {peer}: {ratio:.2f} times the speed, "
                      f"{work[name] / work[peer]:.2f} times the processor time")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--bf16", action="store_true", help="ours with bfloat16 products too")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch")
    parser.add_argument("--peers", action="store_true", help="the machine and PyTorch alone")
    options = parser.parse_args()
    shape = [*SHAPE.values(), options.batch, options.length]
    ours = bf16 = None
    if not options.peers:
        step = "build/bench_train_step"
        ours = start("ours", step, *shape)
        bf16 = start("ours bf16", step, *shape, "bf16") if options.bf16 else None
    peer = start("PyTorch", options.python, "bench/train_peer.py", *shape, **KEEP_MEMORY)
    processes = [process for process in (ours, bf16, peer) if process]
    steppers = {name: (process, word) for name, process, word in (
        ("ours", ours, ""), ("ours-bf16", bf16, ""), ("eager", peer, "eager"),
        ("compile", peer, "compile")) if process}
    if not steppers:
        sys.exit("error: nothing to measure, expected build/bench_train_step or Python's torch")
    report(*measure(steppers, options.rounds), options)
    waited, used = (sum(getattr(p, key) for p in processes) for key in ("waited", "spun"))
    print(f"programs that wait used {used / waited:.1%} of a processor")
    for process in processes:
        process.close()


if __name__ == "__main__":
    main()
