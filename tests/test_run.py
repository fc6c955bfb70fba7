#!/usr/bin/env python3
"""test_run.py: converts every model of tests/data and starts the C program test_run on it, once as
it is stored (against transformers' logits) and once in every type that convert writes."""

import glob
import os

from check import ROOT, SCRATCH, TESTS, check, end, program, relay, start

TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0"]


def convert(directory, model, *options):
    done = start(program("convert"), directory, model, *options)
    return check(f"convert {' '.join([os.path.basename(directory), *options])}",
                 done.returncode == 0, done.stderr.decode(errors="replace").strip())


def test(name, *arguments):
    relay(name, start(os.path.join(TESTS, "test_run"), *arguments, timeout=250))


os.makedirs(SCRATCH, exist_ok=True)
references = sorted(glob.glob(os.path.join(ROOT, "tests/data/llama_*.gguf")))
check("there are models", len(references) == 4, f"found {references}")
for reference in references:
    directory = reference.removesuffix(".gguf")
    name = os.path.basename(directory)
    model = os.path.join(SCRATCH, name + ".gguf")
    if convert(directory, model):
        test(name, model, reference)
    for kind in TYPES:
        model = os.path.join(SCRATCH, f"{name}-{kind}.gguf")
        if convert(directory, model, "-q", kind):
            test(f"{name} {kind}", "--expanded", model, reference)
end()
