#!/usr/bin/env python3
"""test_avx512.py: the level for AVX-512 on a CPU that has none: compiles cpu/avx512.c in
build/simde with the intrinsics of SIMDe, which are plain code and AVX2, and runs the C tests of
levels. What that cannot show: that a compiler turns the same intrinsics into the instructions."""

import os

from check import LEVEL_TESTS, check, end, relay, skip, start

HEADER = "/usr/include/simde/x86/avx512.h"


def cpu_flags():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("flags")]
    except OSError:
        lines = []
    return set(lines[0].split()) if lines else set()


def main():
    flags = cpu_flags()
    if {"avx512bw", "avx512vl", "avx512dq", "avx512_vnni"} <= flags:
        return skip("avx512", "the other tests have been on it already")
    if not {"avx2", "fma", "f16c"} <= flags:
        return skip("avx512", "not a CPU with AVX2, on which it is emulated")
    if not os.path.exists(HEADER):
        return skip("avx512", "libsimde-dev is not installed")
    programs = [f"build/simde/{name}" for name in LEVEL_TESTS]
    done = start("make", "-s", "-j2", *programs, timeout=500, env={"MAKEFLAGS": "", "MFLAGS": ""})
    if not check("build with SIMDe", done.returncode == 0, done.stderr.decode(errors="replace")):
        return
    for test in programs:
        done = start(test, timeout=250, env={"OC_SMALL": "1", "OMP_NUM_THREADS": "2"})
        check(f"{test} has the level", b" avx512 " in done.stdout or b" avx512:" in done.stdout,
              "is not in its output")
        relay("simde", done)


main()
end()
