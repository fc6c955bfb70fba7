#!/usr/bin/env python3
"""test_avx512.py: the levels for AVX-512 and AMX on a CPU that lacks them: compiles cpu/avx512.c in
build/simde with the intrinsics of SIMDe, which are plain code and AVX2, and runs the C tests of
levels. What that cannot show: that a compiler turns the same intrinsics into the instructions."""

import os
import re

from check import LEVEL_TESTS, SIMDE, check, cpu_flags, end, relay, skip, start


def main():
    flags = cpu_flags()
    if {"avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "amx_int8"} <= flags:
        return skip("avx512", "the other tests have been on it already")
    if not {"avx2", "fma", "f16c"} <= flags:
        return skip("avx512", "not a CPU with AVX2, on which it is emulated")
    if not os.path.exists(SIMDE):
        return skip("avx512", "libsimde-dev is not installed")
    programs = [f"build/simde/{name}" for name in LEVEL_TESTS]
    done = start("make", "-s", "-j2", *programs, timeout=500, env={"MAKEFLAGS": "", "MFLAGS": ""})
    if not check("build with SIMDe", done.returncode == 0, done.stderr.decode(errors="replace")):
        return
    for test in programs:
        done = start(test, timeout=250, env={"OC_SMALL": "1", "OMP_NUM_THREADS": "2"})
        levels = ["avx512"] if test.endswith("attention") else ["avx512", "amx"]  # attends alike
        for level in levels:
            check(f"{test} has the level {level}",
                  re.search(rf" {level}[ :]".encode(), done.stdout), "is not in its output")
        relay("simde", done)


main()
end()
