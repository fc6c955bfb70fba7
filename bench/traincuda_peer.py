#!/usr/bin/env python3
"""traincuda_peer.py: what PyTorch reaches on this GPU, to be read beside bench/traincuda_run.py.

transformers' Llama of both OpenCoder shapes with torch.compile, scaled_dot_product_attention and
fused AdamW, all in bf16: weights, gradients and moments, its fastest setting. A step is forward,
backward, clipping and update on new random tokens; the MFU is counted as there. The 8B recomputes
its layers (gradient checkpointing), because its activations would not fit.

    bench/traincuda_peer.py                    both shapes, in less than 9 minutes
    bench/traincuda_peer.py 1.5b               one of them
    bench/traincuda_peer.py --rehearse         a tiny shape on the CPU, without compiling

    bench/traincuda_peer.py curve INIT TOKENS B T UPDATES     for traincuda_curve.py: the losses of
                                               a run from a model file, in the arithmetic of ours:
                                               bf16 products, float32 master weights"""

import statistics
import struct
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError as missing:
    sys.exit(f"error: {missing}; these peers need PyTorch")

from traincuda_run import PEAK, SHAPES, flops

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
#       shape, B, T, rounds, recompute
RUNS = [("1.5b", 4, 4096, 6, False), ("1.5b", 8, 4096, 4, False), ("8b", 1, 8192, 4, True)]


def say(*words):
    print(*words, flush=True)


def make_model(shape, T, recompute):
    from transformers import LlamaConfig, LlamaForCausalLM
    C, ffn, L, H, K, D, V = SHAPES[shape]
    config = LlamaConfig(hidden_size=C, intermediate_size=ffn, num_hidden_layers=L,
                         num_attention_heads=H, num_key_value_heads=K, head_dim=D, vocab_size=V,
                         max_position_embeddings=T, use_cache=False, tie_word_embeddings=False,
                         attn_implementation="sdpa")
    with torch.device(DEVICE):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    if recompute:
        model.gradient_checkpointing_enable()
    return model.train()


def measure(shape, B, T, rounds, recompute, compiled):
    model = make_model(shape, T, recompute)
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8,
                                  weight_decay=0.1, fused=CUDA)
    seconds = []
    for number in range(rounds + 3):
        ids = torch.randint(SHAPES[shape][6], (B, T), device=DEVICE)
        if CUDA:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        loss = run(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if CUDA:
            torch.cuda.synchronize()
        taken = time.perf_counter() - begun
        say(f"  {shape} step {number} {taken:.3f} s, loss {loss.item():.3f}")
        if number >= 3:
            seconds.append(taken)
    rate = B * T / statistics.median(seconds)
    memory = torch.cuda.max_memory_allocated() * 1e-9 if CUDA else 0
    say(f"{shape:5} B={B} T={T} {'recompute' if recompute else ''} {rate:9.0f} tok/s "
        f"MFU {flops(shape, T) * rate / PEAK:6.1%}  {memory:.1f} GB")


# ------------------------------------------------------------------------------- the loss curve
class Curve(torch.nn.Module):
    """The Llama of a GGUF file; RoPE turns the neighbours (2 i, 2 i + 1), as its rows are laid."""

    def __init__(self, path, T):
        super().__init__()
        sys.path.insert(0, "tests")
        from show_gguf import Gguf
        g = Gguf(path)
        key = {name.rpartition(".")[2]: value for name, value in g.keys.items()
               if name.startswith("llama.")}
        self.names = [name for name in g.tensors if not name.startswith("opt.")]
        self.weight = torch.nn.ParameterDict()
        for name in self.names:
            shape, numbers = read_tensor(g, name)
            self.weight[name.replace(".", "_")] = torch.nn.Parameter(
                torch.frombuffer(bytearray(numbers), dtype=torch.float32).reshape(shape).clone())
        self.L, self.H, self.K = key["block_count"], key["head_count"], key["head_count_kv"]
        self.eps = key["layer_norm_rms_epsilon"]
        self.D = self.weight["blk_0_attn_q_weight"].shape[0] // self.H
        speed = key["freq_base"] ** (-torch.arange(0, self.D, 2) / self.D)
        angle = torch.arange(T)[:, None] * speed
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def get(self, name):
        return self.weight[(name + ".weight").replace(".", "_")]

    def norm(self, x, name):
        return F.rms_norm(x.float(), x.shape[-1:], self.get(name), self.eps).to(x.dtype)

    def rope(self, x):
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([a * self.cos - b * self.sin, b * self.cos + a * self.sin],
                           -1).flatten(-2).to(x.dtype)

    def forward(self, ids, targets):
        x = F.embedding(ids, self.get("token_embd"))
        for i in range(self.L):
            name, y = f"blk.{i}.", self.norm(x, f"blk.{i}.attn_norm")
            q, k, v = (F.linear(y, self.get(name + part)).unflatten(-1, (-1, self.D))
                       .transpose(1, 2) for part in ("attn_q", "attn_k", "attn_v"))
            out = F.scaled_dot_product_attention(self.rope(q), self.rope(k), v, is_causal=True,
                                                 enable_gqa=self.H != self.K)
            x = x + F.linear(out.transpose(1, 2).flatten(2), self.get(name + "attn_output"))
            y = self.norm(x, name + "ffn_norm")
            hidden = F.silu(F.linear(y, self.get(name + "ffn_gate"))) * \
                F.linear(y, self.get(name + "ffn_up"))
            x = x + F.linear(hidden, self.get(name + "ffn_down"))
        head = "output" if "output.weight" in self.names else "token_embd"
        logits = F.linear(self.norm(x, "output_norm"), self.get(head))
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def read_tensor(g, name):
    """(shape, bytes) of a float32 tensor; a norm has one dimension."""
    rows, cols, kind, at = g.tensors[name]
    if kind != 0:
        sys.exit(f"error: {name}: expected float32")
    shape = [cols] if "norm" in name else [rows, cols]
    return shape, g.data[g.start + at:g.start + at + 4 * rows * cols]


def curve(init, tokens, B, T, updates):
    model = Curve(init, T).to(DEVICE)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=0.1),
                                   dict(params=vectors, weight_decay=0.0)],
                                  lr=6e-4, betas=(0.9, 0.95), eps=1e-8, fused=CUDA)
    run = torch.compile(model) if CUDA else model
    n = B * (T + 1)
    with open(tokens, "rb") as file:
        for i in range(updates):
            batch = torch.tensor(struct.unpack(f"<{n}I", file.read(4 * n))).reshape(B, T + 1)
            batch = batch.to(DEVICE)
            for group in optimizer.param_groups:
                group["lr"] = 6e-4 * min((i + 1) / 100, 1)
            with torch.autocast(DEVICE, torch.bfloat16):
                loss = run(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            say(f"{i} {loss.item():.6f} {norm.item():.6f}")


def main():
    words = sys.argv[1:]
    if words[:1] == ["curve"] and len(words) == 6:
        return curve(words[1], words[2], *map(int, words[3:]))
    if CUDA:
        say(f"torch {torch.__version__} on {torch.cuda.get_device_name()}")
    rehearse = "--rehearse" in words
    begun = time.monotonic()
    for run in [("tiny", 1, 16, 1, True)] if rehearse else RUNS:
        if not rehearse and words and run[0] not in words:
            continue
        if time.monotonic() - begun > 400:
            say(f"{run}: not begun, 400 s are over")
            continue
        try:
            measure(*run, compiled=not rehearse)
        except (RuntimeError, ImportError) as error:  # out of memory, or no transformers
            say(f"{run[0]:5} B={run[1]} T={run[2]}: {str(error).splitlines()[0]}")
        if CUDA:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    return 0


if __name__ == "__main__":
    sys.exit(main())
