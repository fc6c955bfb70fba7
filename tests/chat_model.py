"""chat_model.py: random models for test_chat.py and test_signals.py. A printable character is a
token, and no two join, so text and ids are one to one: what a model has said can be given back to
it as a prompt. The weights are large enough that every token of the context shows in the logits."""

import os
import random

from badinput_files import (CONTROL, DIM, F32, HEADS, HEAD_DIM, HIDDEN, KV_HEADS, LAYERS, NORMAL,
                            T_F32, U32, UNKNOWN, Gguf, floats)
from check import SCRATCH

CHARACTERS = [chr(i) for i in range(32, 127)] + ["\n"]
MARKERS = "<|im_start|>", "<|im_end|>"
RENAMED = "\x01", "\x02"  # the markers in a model that takes the usual ones for text
START, END = 3 + len(CHARACTERS), 4 + len(CHARACTERS)


def tokens(markers):
    names = [(b"<unk>", UNKNOWN), (b"<s>", CONTROL), (b"</s>", CONTROL)]
    names += [(c.replace(" ", "\u2581").encode(), NORMAL) for c in CHARACTERS]
    return tuple((name, 0.0, kind) for name, kind in
                 names + [(marker.encode(), CONTROL) for marker in markers])


def write_model(name, markers=MARKERS, context=2000, ends=1.5):
    """Returns the path. The likelihood of the end of an answer grows with `ends`; 0: never."""
    noise = random.Random(64)
    g = Gguf(tokens(markers), checksums="none")
    q_dim, kv_dim = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes = {"attn_q": (q_dim, DIM), "attn_k": (kv_dim, DIM), "attn_v": (kv_dim, DIM),
              "attn_output": (DIM, q_dim), "ffn_gate": (HIDDEN, DIM), "ffn_up": (HIDDEN, DIM),
              "ffn_down": (DIM, HIDDEN)}

    def fill(tensor, rows, cols, scale):
        g.store(tensor, T_F32, floats([noise.gauss(0, scale) for _ in range(rows * cols)]))

    for layer in range(LAYERS):
        for part, (rows, cols) in shapes.items():
            fill(f"blk.{layer}.{part}.weight", rows, cols, 3 * cols ** -0.5)
    fill("token_embd.weight", END + 1, DIM, 1)
    fill("output.weight", END + 1, DIM, 1)
    for row, scale in {0: 0, 1: 0, 2: 0, START: 0, END: ends}.items():
        for column in range(DIM):
            g.poke("output.weight", row * DIM + column, noise.gauss(0, 1) * scale)
    g.set("llama.context_length", U32, context).set("llama.rope.freq_base", F32, 100.0)
    g.set("tokenizer.ggml.bos_token_id", U32, START).set("tokenizer.ggml.eos_token_id", U32, END)
    path = os.path.join(SCRATCH, name)
    with open(path, "wb") as file:
        file.write(g.build())
    return path
