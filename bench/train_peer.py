#!/usr/bin/env python3
"""train_peer.py DIM HIDDEN LAYERS HEADS KV_HEADS HEAD_DIM VOCAB BATCH LENGTH: a training step of
PyTorch on this machine, for bench/train.py to compare with.

The same Llama as ours in float32, written as one would for speed: one product for q, k and v and
one for gate and up, PyTorch's own attention, norm and cross entropy, clipping to a norm of 1 and
AdamW, fused or foreach, whichever turns out faster here. After the warming up it prints

    ready VERSION, AdamW KIND

and then answers each line of stdin, `eager` or `compile`, with the seconds of one step and its
loss. Both modes train the same weights. Between the lines it sleeps."""

import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


class Layer(nn.Module):
    def __init__(self, dim, hidden, heads, kv_heads, head_dim):
        super().__init__()
        self.heads, self.head_dim, self.grouped = heads, head_dim, heads != kv_heads
        self.split = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
        self.attn_norm, self.ffn_norm = nn.RMSNorm(dim, eps=1e-5), nn.RMSNorm(dim, eps=1e-5)
        self.qkv = nn.Linear(dim, sum(self.split), bias=False)
        self.out = nn.Linear(heads * head_dim, dim, bias=False)
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x, cos, sin):
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
                   for part in self.qkv(self.attn_norm(x)).split(self.split, -1))
        attended = F.scaled_dot_product_attention(rope(q, cos, sin), rope(k, cos, sin), v,
                                                  is_causal=True, enable_gqa=self.grouped)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Llama(nn.Module):
    def __init__(self, dim, hidden, layers, heads, kv_heads, head_dim, vocab, length):
        super().__init__()
        self.embedding = nn.Embedding(vocab, dim)
        self.layers = nn.ModuleList(Layer(dim, hidden, heads, kv_heads, head_dim)
                                    for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(dim, eps=1e-5), nn.Linear(dim, vocab, bias=False)
        speed = 1e4 ** (-torch.arange(0, head_dim, 2) / head_dim)
        angle = torch.arange(length)[:, None] * speed
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        for weight in self.parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, 0, 0.02)

    def forward(self, ids, targets):
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def optimizer_of(model, kind):
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    return torch.optim.AdamW([dict(params=matrices, weight_decay=0.1),
                              dict(params=vectors, weight_decay=0.0)],
                             lr=1e-4, betas=(0.9, 0.95), eps=1e-8, **{kind: True})


def timed(function, *arguments):
    begun = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - begun, result


def step(forward, model, optimizer, tokens):
    loss = forward(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def main():
    torch.manual_seed(1)
    *shape, batch, length = map(int, sys.argv[1:])
    model = Llama(*shape, length)
    tokens = torch.randint(shape[-1], (batch, length + 1))
    forwards = {"eager": model, "compile": torch.compile(model, dynamic=False)}
    optimizers = {kind: optimizer_of(model, kind) for kind in ("fused", "foreach")}
    forwards["eager"](tokens[:, :-1], tokens[:, 1:]).backward()
    seconds = {kind: statistics.median(timed(optimizer.step)[0] for _ in range(4))
               for kind, optimizer in optimizers.items()}
    kind = min(seconds, key=seconds.get)
    optimizer = optimizers[kind]
    del optimizers
    for forward in forwards.values():
        for _ in range(2):
            step(forward, model, optimizer, tokens)
    print(f"ready torch {torch.__version__}, AdamW {kind}", flush=True)
    for line in sys.stdin:
        taken, loss = timed(step, forwards[line.strip()], model, optimizer, tokens)
        print(f"{taken:.6f} {loss:.6f}", flush=True)


if __name__ == "__main__":
    main()
