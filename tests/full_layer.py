#!/usr/bin/env python3
"""full_layer.py: one full-width layer of each OpenCoder size against transformers. Part of
`make test-long`, not of `make test`: the models are too big to commit, so torch, transformers and
the packages of make_fixtures.py are needed, and 2 GB on the disk. Prints the largest errors."""

import os
import shutil
import sys

from check import SCRATCH, TESTS, check, end, program, relay, skip, start

try:
    import torch
    import make_fixtures
except ImportError as missing:
    skip("full-width layers", f"{missing}; see make_fixtures.py")
    sys.exit(0)

os.makedirs(SCRATCH, exist_ok=True)
for name, shape in make_fixtures.FULL_WIDTH.items():
    directory = os.path.join(SCRATCH, f"full-{name}")
    reference, model = directory + ".ref.gguf", directory + ".gguf"
    llama = make_fixtures.random_llama(shape, 1.0, 1, max_position_embeddings=4096)
    llama = make_fixtures.write_model(directory, llama, torch.bfloat16)
    make_fixtures.write_tokenizer(directory)
    make_fixtures.write_reference(reference, llama, 24, 16, 1, hidden=True)
    del llama
    done = start(program("convert"), directory, model, timeout=600)
    if check(f"convert {name}", done.returncode == 0, done.stderr.decode(errors="replace")):
        relay(name, start(os.path.join(TESTS, "test_run"), model, reference, timeout=3600))
    shutil.rmtree(directory)
    os.remove(reference)
    if os.path.exists(model):
        os.remove(model)
end()
