#!/usr/bin/env python3
"""test_train.py: converts every model of tests/data and starts the C program test_train on it, once
for every reference that make_train_fixtures.py has recorded of it."""

import glob
import os

from check import ROOT, SCRATCH, TESTS, check, end, program, relay, start

os.makedirs(SCRATCH, exist_ok=True)
n_references = 0
for directory in sorted(glob.glob(os.path.join(ROOT, "tests/data/llama_*/"))):
    name = os.path.basename(directory.rstrip("/")).removeprefix("llama_")
    model = os.path.join(SCRATCH, f"train_{name}.gguf")
    done = start(program("convert"), directory, model, "-q", "f32")
    if not check(f"convert {name}", done.returncode == 0, done.stderr.decode(errors="replace")):
        continue
    for reference in sorted(glob.glob(os.path.join(ROOT, f"tests/data/train_{name}_*.gguf"))):
        case = os.path.basename(reference).removesuffix(".gguf").removeprefix("train_")
        relay(case, start(os.path.join(TESTS, "test_train"), model, reference, timeout=250))
        n_references += 1
check("there are references", n_references == 20, f"found {n_references}")
end()
