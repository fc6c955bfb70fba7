#!/usr/bin/env python3
"""test_agree.py: starts the C program test_agree on every model of tests/data, as float32 and as
q8_0, which trainer and engine unpack each in their own way."""

import glob
import os

from check import ROOT, SCRATCH, TESTS, check, end, program, relay, start

os.makedirs(SCRATCH, exist_ok=True)
models = sorted(glob.glob(os.path.join(ROOT, "tests/data/llama_*/")))
check("there are models", len(models) == 4, f"found {models}")
for directory in models:
    for kind in "f32", "q8_0":
        name = f"{os.path.basename(directory.rstrip('/'))} {kind}"
        model = os.path.join(SCRATCH, f"agree_{name.replace(' ', '-')}.gguf")
        done = start(program("convert"), directory, model, "-q", kind)
        if check(f"convert {name}", done.returncode == 0, done.stderr.decode(errors="replace")):
            relay(name, start(os.path.join(TESTS, "test_agree"), model, timeout=250))
end()
