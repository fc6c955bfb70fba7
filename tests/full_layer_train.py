#!/usr/bin/env python3
"""full_layer_train.py: loss and every gradient of one full-width layer of each OpenCoder size
against PyTorch. Part of `make test-long`, not of `make test`: the models are too big to commit, so
torch, transformers and the packages of make_fixtures.py are needed, and 4 GB on the disk. The
references are as make_train_fixtures.py describes them, with whole gradients."""

import os
import shutil
import sys

from check import SCRATCH, TESTS, check, end, program, relay, skip, start

try:
    import torch
    import transformers
    import make_fixtures
    import make_train_fixtures
except ImportError as missing:
    skip("training of full-width layers", f"{missing}; see make_fixtures.py")
    sys.exit(0)

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
os.makedirs(SCRATCH, exist_ok=True)
for name, shape in make_fixtures.FULL_WIDTH.items():
    directory = os.path.join(SCRATCH, f"full-train-{name}")
    reference, model = directory + ".ref.gguf", directory + ".gguf"
    llama = make_fixtures.random_llama(shape, 1.0, 1, max_position_embeddings=4096)
    shutil.rmtree(directory, ignore_errors=True)
    llama.to(torch.bfloat16).save_pretrained(directory)
    make_fixtures.write_tokenizer(directory)
    llama = make_train_fixtures.load(directory)
    make_train_fixtures.write_plain(reference, name, llama, 1, 64, 1)
    del llama
    done = start(program("convert"), directory, model, "-q", "f32", timeout=600)
    if check(f"convert {name}", done.returncode == 0, done.stderr.decode(errors="replace")):
        relay(name, start(os.path.join(TESTS, "test_train"), model, reference, timeout=3600))
    shutil.rmtree(directory)
    os.remove(reference)
    if os.path.exists(model):
        os.remove(model)
end()
