#!/usr/bin/env python3
"""traincuda_run.py: how fast ./traincuda trains, in tokens a second and as MFU.

MFU is the share of the device's peak (989 TFLOP/s for bf16 on an H100 or H200) that the arithmetic
of the model itself needs, however it is done: 6 operations a weight that is multiplied and token,
and 6 L C T for causal attention. `steps` counts forward and backward passes alone, `updates`
everything. Every update has new random tokens. A line is printed as soon as it is measured.

    bench/traincuda_run.py              every configuration, in less than 9 minutes
    bench/traincuda_run.py 1.5b         some of them
    bench/traincuda_run.py --first      the two that matter most, in two minutes
    bench/traincuda_run.py save         4 layers of the 8B at full width, saved and resumed
    bench/traincuda_run.py --emulate    rehearse on the CPU; its times mean nothing"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from gpu_run import ROOT, SHAPES, matrices

PEAK = 989e12
# shape, layers, B, T, recompute level, state (m: bf16 moments, g: bf16 gradients), micros, updates;
# the first two are those that have an aim
RUNS = [("1.5b", 0, 4, 4096, 0, "-", 1, 6), ("8b", 0, 1, 8192, 1, "g", 1, 4),
        ("1.5b", 0, 8, 4096, 0, "-", 1, 4), ("8b", 0, 1, 8192, 0, "mg", 1, 4),
        ("1.5b", 0, 8, 4096, 1, "-", 2, 2), ("1.5b", 0, 4, 4096, 3, "-", 1, 3),
        ("8b", 0, 1, 8192, 2, "-", 1, 3), ("8b", 0, 2, 8192, 1, "mg", 2, 2)]
TINY = [("tiny", 1, 1, 16, 0, "-", 1, 1), ("tiny", 1, 1, 16, 2, "mg", 2, 1)]


def flops(shape, T):
    """Operations a token."""
    _, _, L, H, _, D, _ = SHAPES[shape]
    layers, head = matrices(shape)
    return 6 * (layers + head) + 6 * L * H * D * T


def show(run, lines):
    shape, layers, B, T, level, state, micros, _ = run
    tokens, steps, whole = B * T * micros, [], []
    for line in lines:
        word, *rest = line.split()
        if word == "open":
            opened = float(rest[0])
        elif word == "update" and int(rest[0]) > 0:
            steps.append(float(rest[2]))
            whole.append(float(rest[4]))
    part = "" if not layers else f" {layers} layers"
    name = f"{shape}{part} B={B} T={T} x{micros} level {level} state {state}"
    if not whole:
        print(f"{name:44} no update", flush=True)
        return
    need = flops(shape, T)
    text = " ".join(f"{what} {tokens / statistics.median(times):9.0f} tok/s "
                    f"MFU {need * tokens / statistics.median(times) / PEAK:6.1%}"
                    for what, times in (("steps", steps), ("updates", whole)))
    print(f"{name:44} {text}  {statistics.median(whole):7.3f} s an update, open {opened:.1f} s",
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--emulate", action="store_true", help="rehearse on the CPU")
    parser.add_argument("--first", action="store_true", help="the first two alone")
    parser.add_argument("--seconds", type=float, default=500, help="begin nothing after these")
    parser.add_argument("only", nargs="*", help="1.5b, 8b or save")
    options = parser.parse_args()
    program = "build/emu/bench_traincuda" if options.emulate else "build/cuda/bench_traincuda"
    begun, failed = time.monotonic(), 0
    print(f"bench/traincuda_run.py, {time.strftime('%Y-%m-%d')}, MFU of {PEAK * 1e-12:.0f} TFLOP/s",
          flush=True)
    if not options.emulate:
        subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,power.limit",
                        "--format=csv,noheader"], check=False)
    jobs = [("speed", run) for run in (TINY if options.emulate else RUNS)
            if not options.only or run[0] in options.only]
    if options.first:
        jobs = jobs[:2]
    elif not options.only or "save" in options.only:
        shape, layers, T = ("tiny", 1, 16) if options.emulate else ("8b", 4, 2048)
        jobs.append(("save", (shape, layers, T, "build/traincuda.ckpt")))
    for what, run in jobs:
        if time.monotonic() - begun > options.seconds:
            print(f"{what} {run}: not begun, {options.seconds:.0f} s are over", flush=True)
            continue
        done = subprocess.run([program, what, *map(str, run)], cwd=ROOT, text=True, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if what == "speed":
            show(run, done.stdout.splitlines())
        else:
            print(f"save {run[0]}, {run[1]} layers:", *done.stdout.splitlines(), sep="\n  ",
                  flush=True)
        for line in done.stderr.splitlines() if done.returncode else ():
            print(f"  {line}", flush=True)
        failed |= done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
