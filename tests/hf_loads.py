#!/usr/bin/env python3
"""hf_loads.py: what `convert -o hf` writes, as transformers sees it: the recorded logits, to the
bit, and with AutoTokenizer the ids that ./tokenizer gives. Part of `make test-long`; needs what
make_fixtures.py needs."""

import glob
import os
import shutil
import sys

from check import ROOT, SCRATCH, check, check_equal, end, program, skip, start

try:
    import gguf
    import torch
    import transformers
except ImportError as missing:
    skip("transformers", f"{missing}; see make_fixtures.py")
    sys.exit(0)

TEXTS = ["", "def fib(n):\n    return n", "<|im_start|>user\nhi<|im_end|>\n", "  a\t\r\n\n b  ",
         "1234567 0x1F don't", "caf\u00e9 \u4f60\u597d \U0001f600", "a\u2581b"]


def same_logits(directory, reference):
    model = transformers.LlamaForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager").eval()
    recorded = gguf.GGUFReader(reference)
    tokens = recorded.get_field("tokens").contents()
    want = next(tensor.data for tensor in recorded.tensors if tensor.name == "logits")
    with torch.no_grad():
        return (model(torch.tensor([tokens])).logits[0].numpy() == want).all()


torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
os.makedirs(SCRATCH, exist_ok=True)
for reference in sorted(glob.glob(os.path.join(ROOT, "tests/data/llama_*.gguf"))):
    source = reference.removesuffix(".gguf")
    name = os.path.basename(source)
    model = os.path.join(SCRATCH, name + ".hf.gguf")
    directory = os.path.join(SCRATCH, name + ".hf")
    shutil.rmtree(directory, ignore_errors=True)
    for step in ([source, model], [model, directory, "-o", "hf"]):
        done = start(program("convert"), *step)
        check(f"convert {name} {' '.join(step[2:])}", done.returncode == 0,
              done.stderr.decode(errors="replace"))
    check(f"{name}: the same logits", same_logits(directory, reference))
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    for text in TEXTS:
        ids = start(program("tokenizer"), "encode", model, stdin=text.encode()).stdout.split()
        check_equal(f"{name}: ids of {text!r}", tokenizer.encode(text), [int(i) for i in ids])
end()
