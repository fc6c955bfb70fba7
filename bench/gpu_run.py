#!/usr/bin/env python3
"""gpu_run.py: `make bench-cuda`. How fast ./runcuda's engine is, against what the memory and the
tensor cores of an H200 can do at most.

The floor of decoding is the bytes that a token needs (all matrices but the embedding, and keys and
values so far) at 4.3 TB/s; that of a prompt, its multiply-adds at 790 TFLOP/s, with the head for
the last token only. A line is printed as soon as it is measured. --emulate rehearses everything on
the CPU with a tiny model; its times mean nothing."""

import argparse
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BANDWIDTH, FLOPS = 4.3e12, 790e12
BYTES = {"bf16": 2, "f16": 2, "q8_0": 34 / 32, "q4_0": 18 / 32}
#        C, F, L, H, K, D, V
SHAPES = {"1.5b": (2240, 6144, 24, 14, 14, 160, 96640), "8b": (4096, 14336, 32, 32, 8, 128, 96640),
          "tiny": (320, 864, 6, 4, 2, 80, 4096)}
RUNS = [(shape, kind) for shape in ("8b", "1.5b") for kind in ("bf16", "q8_0", "q4_0")]


def matrices(shape):
    """(numbers in the matrices of all layers, in the head)"""
    C, F, L, H, K, D, V = SHAPES[shape]
    return L * (C * (H + 2 * K) * D + H * D * C + 3 * C * F), V * C


def floor_seconds(shape, kind, what, n):
    _, _, L, H, K, D, _ = SHAPES[shape]
    layers, head = matrices(shape)
    if what == "decode":
        return ((layers + head) * BYTES[kind] + n * L * 2 * K * D * 2) / BANDWIDTH
    attention = L * 2 * n * n * H * D  # causal: half of 4 n n H D
    return (2 * (n * layers + head) + attention) / FLOPS


def show(shape, kind, line):
    what, n, seconds = line.split()
    n, seconds = int(n), float(seconds)
    if what == "open":
        layers, head = matrices(shape)
        size = (layers + 2 * head) * BYTES[kind]
        text = f"open      {seconds:8.2f} s      {size / seconds * 1e-9:9.2f} GB/s to the device"
    else:
        rate = (n if what == "prompt" else 1) / seconds
        share = floor_seconds(shape, kind, what, n) / seconds
        place = f"{what} {n}" if what == "prompt" else f"decode at {n}"
        text = f"{place:15} {rate:12.1f} tok/s {seconds * 1e3:10.3f} ms {share:7.1%} of the floor"
    print(f"{shape:5} {kind:5} {text}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--emulate", action="store_true", help="rehearse on the CPU")
    parser.add_argument("only", nargs="*", help="shapes or types, e.g. 8b q4_0")
    options = parser.parse_args()
    program = "build/emu/bench_gpu" if options.emulate else "build/cuda/bench_gpu"
    runs = [("tiny", kind) for kind in ("bf16", "q8_0", "q4_0")] if options.emulate else RUNS
    runs = [r for r in runs if not options.only or set(r) & set(options.only)]
    print(f"bench/gpu_run.py, {time.strftime('%Y-%m-%d')}, floors at {BANDWIDTH * 1e-12} TB/s and "
          f"{FLOPS * 1e-12:.0f} TFLOP/s", flush=True)
    if not options.emulate:
        subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,power.limit",
                        "--format=csv,noheader"], check=False)
    failed = 0
    for shape, kind in runs:
        full = {"1.5b": 4096, "8b": 8192, "tiny": 40}[shape]
        context, short = (20, 24) if options.emulate else (4000, 512)
        child = subprocess.Popen([program, shape, kind, str(context), str(short), str(full)],
                                 cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for line in child.stdout:
            show(shape, kind, line)
        if child.wait():
            print(f"{shape:5} {kind:5} exit code {child.returncode}", flush=True)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
