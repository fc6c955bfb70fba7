#!/usr/bin/env python3
"""test_cuda.py: starts the C program test_cuda, which holds runcuda.cu against run.c, and then the
command line ./runcuda-emu: the same text as ./run, and one clear line for every machine that cannot
run it. All of it on the CPU, through cuda/emu.h."""

import os
import re
import sys

from check import BIN, ROOT, SCRATCH, TESTS, check, check_equal, end, program, relay, skip, start

EMU = os.path.join(BIN, "runcuda-emu")
if not os.path.exists(os.path.join(ROOT, EMU)):
    skip("runcuda", "no C++17 compiler; set CXX")
    sys.exit(0)
os.makedirs(SCRATCH, exist_ok=True)
MODEL = os.path.join(SCRATCH, "cuda.gguf")


def run(name, *arguments, env=None):
    return start(name, MODEL, "-i", "def f(x):", "-n", 12, *arguments, env=env)


def fails(name, env, *words, code=1, arguments=()):
    """The program ends with one line that has these words in it."""
    done = run(EMU, *arguments, env=env)
    lines = done.stderr.decode(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    check(name, done.returncode == code and len(errors) == 1 and not done.stdout and
          all(word in errors[0] for word in words),
          f"exit code {done.returncode}, {lines}, expected {words}")


# Threads that wait for the next weight to upload would only be in the way.
relay("engine", start(os.path.join(TESTS, "test_cuda"), timeout=1000,
                      env={"OMP_WAIT_POLICY": "passive"}))

directory = os.path.join(ROOT, "tests/data/llama_gqa20")
made = start(program("convert"), directory, MODEL, "-q", "bf16")
if not check("convert", made.returncode == 0, made.stderr.decode(errors="replace")):
    end()
exact = run(program("run"), "--exact", "-q").stdout
check("there is text", len(exact) > 12, repr(exact))
check_equal("--exact: the text of ./run", run(EMU, "--exact", "-q").stdout, exact)
alone = run(EMU, "--exact", "-q", "--speculate", 0)
check_equal("the same without speculation", alone.stdout, exact)
fast = run(EMU, "-q", "--speculate", 0).stdout
check("the fast path writes", len(fast) > 12, repr(fast))
check_equal("and the same with speculation", run(EMU, "-q", "--speculate-always").stdout, fast)
for shared, most in ("75500", 2), ("75000", 1), ("50000", 0):  # proposals; then cuBLAS, none
    small = {"OC_EMU_SHARED": shared}
    plain = run(EMU, "-q", "--speculate", 0, env=small).stdout
    done = run(EMU, "--speculate-always", env=small)
    found = re.search(rb"speculation: .* ([\d.]+) tokens a pass", done.stderr)
    rate = float(found.group(1)) if found else 1
    check_equal(f"{shared} bytes of shared memory: the text", done.stdout, plain)
    check(f"at most {most} proposals a pass", rate <= most + 1 and (rate > 1) == (most > 0),
          f"{rate} tokens a pass")
check_equal("sampling takes the logits", run(EMU, "-q", "-t", 0.7, "-s", 5).returncode, 0)
check_equal("--cache fp8", run(EMU, "-q", "--cache", "fp8").returncode, 0)
one, two = os.path.join(SCRATCH, "one.gguf"), os.path.join(SCRATCH, "two.gguf")
dumps = [run(name, "--dump-activations", path)
         for name, path in ((program("run"), one), (EMU, two))]
check("--dump-activations", [d.returncode for d in dumps] == [0, 0] and
      os.path.getsize(one) == os.path.getsize(two), f"{dumps}")

fails("no device", {"OC_EMU_DEVICES": "0"}, "GPU: no device")
fails("an old driver", {"OC_EMU_DRIVER": "12040"}, "12.4", "13.0", "update")
fails("no driver", {"OC_EMU_DRIVER": "0"}, "no NVIDIA driver")
fails("an old device", {"OC_EMU_CC": "75"}, "7.5", "8.0")
fails("too little memory", {"OC_EMU_MEMORY": "1000000"}, "GB of memory needed", "GB free", "-c")
fails("memory in pieces", {"OC_EMU_ROOM": "1000000"}, "GB of memory needed", "8.59 GB free")
fails("no room for the draft", {"OC_EMU_MEMORY": "1500000"}, "GB of memory needed", "GB free",
      arguments=("--draft", MODEL))
fails("--cache of another type", {}, "--cache", "bf16 or fp8", code=2, arguments=("--cache", "q8"))
calls = 0  # every call of the runtime fails once
for number in [1, 2, 3, 5, 8, 13, 20, 40, 60, 90, 130, 150]:
    done = run(EMU, "-q", env={"OC_EMU_FAIL": str(number)})
    calls += done.returncode == 1 and done.stderr.count(b"error: GPU: ") == 1
check_equal("a call that fails ends it with one line", calls, 12)
end()
