#!/usr/bin/env python3
"""test_neon.py: the levels for ARM, on a machine that is none: builds C tests for aarch64 in
build/neon with a cross compiler and runs them under qemu, on a CPU that has every extension and on
one of 2015, which has no dot products of bytes. An emulator is slow: OC_SMALL makes tests small."""

import os
import platform
import shutil

from check import LEVEL_TESTS, SCRATCH, check, check_equal, end, program, relay, skip, start

COMPILER, QEMU, LIBRARIES = "aarch64-linux-gnu-gcc", "qemu-aarch64", "/usr/aarch64-linux-gnu"
BEST = {"max": "dotprod", "cortex-a72": "neon"}  # CPU: the level that is chosen there


def emulate(cpu, name, *arguments):
    return start(QEMU, "-cpu", cpu, "-L", LIBRARIES, os.path.join("build/neon", name), *arguments,
                 timeout=250, env={"OC_SMALL": "1", "OMP_THREAD_LIMIT": "1",
                                   "OMP_NUM_THREADS": "1"})


def build():
    done = start("make", "-s", "-j2", "neon", timeout=500, env={"MAKEFLAGS": "", "MFLAGS": ""})
    return check("build for aarch64", done.returncode == 0, done.stderr.decode(errors="replace"))


def test_level(cpu, model):
    done = emulate(cpu, "run", model, "-i", "a", "-n", "1")
    check(f"{cpu}: {BEST[cpu]} is chosen", f", {BEST[cpu]}, 1 thread" in done.stderr.decode(),
          done.stderr.decode(errors="replace"))
    for level in ["avx2"] + ["dotprod"] * (cpu != "max"):
        done = emulate(cpu, "run", model, "--cpu", level)
        check_equal(f"{cpu}: --cpu {level}", (done.returncode, done.stderr.decode().strip()),
                    (2, f"error: --cpu: '{level}', expected an instruction set that this CPU has: "
                        "dotprod, neon or plain; try -h"))


def main():
    for needed in COMPILER, QEMU:
        if platform.machine() == "aarch64":
            return skip("neon", "the other tests have been on ARM already")
        if not shutil.which(needed):
            return skip("neon", f"{needed} is not installed")
    if not build():
        return
    for name in LEVEL_TESTS:
        relay(f"max {name}", emulate("max", f"tests/{name}"))
    relay("cortex-a72 test_int8", emulate("cortex-a72", "tests/test_int8"))
    os.makedirs(SCRATCH, exist_ok=True)
    reference, model = "tests/data/llama_v5.gguf", os.path.join(SCRATCH, "neon.gguf")
    done = start(program("convert"), reference.removesuffix(".gguf"), model)
    if not check("convert", done.returncode == 0, done.stderr.decode(errors="replace")):
        return
    relay("max test_run", emulate("max", "tests/test_run", model, reference))
    for cpu in BEST:
        test_level(cpu, model)


main()
end()
