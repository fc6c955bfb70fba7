#!/usr/bin/env python3
"""gpu_peers.py: what PyTorch reaches on this GPU, to be read beside bench/gpu_run.py.

Decoding and prompts of both OpenCoder shapes, written in the way of gpt-fast: a static cache, one
function for a step, torch.compile with CUDA graphs; weights in bf16, or int8 with a scale a row.
Beside it the device itself: copying memory, and the products of a prompt. Weights are random.

    bench/gpu_peers.py                  everything, in less than 9 minutes
    bench/gpu_peers.py decode 8b        one part, one shape
    bench/gpu_peers.py --rehearse       tiny shapes on the CPU, without compiling"""

import argparse
import statistics
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError as missing:
    sys.exit(f"error: {missing}; these peers need PyTorch")

SHAPES = {
    "1.5b": dict(dim=2240, hidden=6144, layers=24, heads=14, kv=14, head=160, vocab=96640,
                 ctx=4096),
    "8b": dict(dim=4096, hidden=14336, layers=32, heads=32, kv=8, head=128, vocab=96640, ctx=8192),
    "tiny": dict(dim=320, hidden=864, layers=2, heads=4, kv=2, head=80, vocab=512, ctx=64),
}


def say(*words):
    print(*words, flush=True)


class Clock:
    """Median milliseconds of a function on the device, with events; on the CPU by its clock."""

    def __init__(self, device):
        self.cuda = device == "cuda"

    def __call__(self, function, rounds, warm):
        times = []
        for number in range(warm + rounds):
            if self.cuda:
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                function()
                stop.record()
                stop.synchronize()
                taken = start.elapsed_time(stop)
            else:
                begun = time.perf_counter()
                function()
                taken = 1e3 * (time.perf_counter() - begun)
            if number >= warm:
                times.append(taken)
        return statistics.median(times)


class Peer:
    """A Llama of random weights with a static cache. Rotates halves, as Hugging Face does."""

    def __init__(self, shape, n_ctx, device, int8):
        self.s, self.n_ctx, self.device, self.int8 = shape, n_ctx, device, int8
        s, self.dtype = shape, torch.bfloat16
        q, kv = s["heads"] * s["head"], s["kv"] * s["head"]
        self.split = (q, kv, kv)
        sizes = [(q + 2 * kv, s["dim"]), (s["dim"], q), (2 * s["hidden"], s["dim"]),
                 (s["dim"], s["hidden"])]
        self.layers = [[self.matrix(*size) for size in sizes] for _ in range(s["layers"])]
        self.head = self.matrix(s["vocab"], s["dim"])
        self.embedding = torch.randn(s["vocab"], s["dim"], device=device, dtype=self.dtype)
        self.norm = torch.ones(s["dim"], device=device, dtype=self.dtype)
        cache = (s["layers"], s["kv"], n_ctx, s["head"])
        self.keys = torch.zeros(cache, device=device, dtype=self.dtype)
        self.values = torch.zeros_like(self.keys)
        steps = torch.arange(0, s["head"], 2, device=device) / s["head"]
        angles = torch.arange(n_ctx, device=device)[:, None] * 1e4 ** -steps
        self.cos, self.sin = angles.cos().to(self.dtype), angles.sin().to(self.dtype)
        self.places = torch.arange(n_ctx, device=device)

    def matrix(self, rows, cols):
        if not self.int8:
            return torch.randn(rows, cols, device=self.device, dtype=self.dtype) * 0.02, None
        codes = torch.randint(-127, 128, (rows, cols), device=self.device, dtype=torch.int8)
        return codes, torch.full((rows,), 3e-4, device=self.device, dtype=self.dtype)

    def linear(self, x, weight):
        codes, scale = weight
        return F.linear(x, codes) if scale is None else F.linear(x, codes.to(self.dtype)) * scale

    def turn(self, x, pos):
        a, b = x.chunk(2, -1)
        cos, sin = self.cos[pos], self.sin[pos]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def attention(self, layer, x, pos, prompt):
        s, n = self.s, x.shape[0]
        parts = self.linear(F.rms_norm(x, (s["dim"],), self.norm), self.layers[layer][0])
        q, k, v = (t.view(n, -1, s["head"]).transpose(0, 1) for t in parts.split(self.split, -1))
        q, k = self.turn(q, pos), self.turn(k, pos)
        self.keys[layer].index_copy_(1, pos, k)
        self.values[layer].index_copy_(1, pos, v)
        if prompt:
            out = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True,
                                                 enable_gqa=s["heads"] != s["kv"])
        else:
            mask = (self.places <= pos)[None, None, None]
            out = F.scaled_dot_product_attention(
                q[None], self.keys[layer][None], self.values[layer][None], attn_mask=mask,
                enable_gqa=s["heads"] != s["kv"])
        return self.linear(out[0].transpose(0, 1).reshape(n, -1), self.layers[layer][1])

    def step(self, token, pos, prompt):
        s, x = self.s, self.embedding[token]
        for layer, (_, _, gate_up, down) in enumerate(self.layers):
            x = x + self.attention(layer, x, pos, prompt)
            gate, up = self.linear(F.rms_norm(x, (s["dim"],), self.norm), gate_up).chunk(2, -1)
            x = x + self.linear(F.silu(gate) * up, down)
        return self.linear(F.rms_norm(x[-1:], (s["dim"],), self.norm), self.head).argmax(-1)


def compiled(peer, prompt, device):
    def function(token, pos):
        return peer.step(token, pos, prompt)
    if device == "cpu":
        return function
    return torch.compile(function, mode=None if prompt else "reduce-overhead", fullgraph=True)


def forget(device):
    torch._dynamo.reset()
    if device == "cuda":
        torch.cuda.empty_cache()


def measure_device(name, shape, device, clock):
    n = 1 << 30 if device == "cuda" else 1 << 20
    x = torch.randn(n, device=device, dtype=torch.bfloat16)
    y = torch.empty_like(x)
    taken = clock(lambda: y.copy_(x), 20, 3)
    say(f"{name:5} copy            {4 * n / taken * 1e-9:8.2f} TB/s, read and written")
    del x, y
    q = (shape["heads"] + 2 * shape["kv"]) * shape["head"]
    sizes = {"qkv": (q, shape["dim"]), "gate up": (2 * shape["hidden"], shape["dim"]),
             "down": (shape["dim"], shape["hidden"])}
    m = min(4096, shape["ctx"])
    for what, (rows, cols) in sizes.items():
        a = torch.randn(m, cols, device=device, dtype=torch.bfloat16)
        w = torch.randn(rows, cols, device=device, dtype=torch.bfloat16)
        taken = clock(lambda: F.linear(a, w), 20, 3)
        say(f"{name:5} {what:9} x {m}  {2 * m * rows * cols / taken * 1e-9:8.1f} TFLOP/s")


def measure_decode(name, shape, device, clock):
    far = 4000 if shape["ctx"] > 4000 else shape["ctx"] - 4
    for int8 in (False, True):
        kind = "int8" if int8 else "bf16"
        for at in (16, far):
            n_ctx = min(256, shape["ctx"]) if at == 16 else shape["ctx"]
            peer = Peer(shape, n_ctx, device, int8)
            step = compiled(peer, False, device)
            token = torch.zeros(1, dtype=torch.long, device=device)
            pos = torch.full((1,), at, device=device)
            taken = clock(lambda: step(token, pos), 64, 8)
            say(f"{name:5} {kind:5} decode at {at:5} {1e3 / taken:10.1f} tok/s {taken:9.3f} ms")
            del peer, step
            forget(device)


def measure_prompt(name, shape, device, clock):
    peer = Peer(shape, shape["ctx"], device, False)
    step = compiled(peer, True, device)
    for n in sorted({min(512, shape["ctx"]), shape["ctx"]}):
        token = torch.randint(0, shape["vocab"], (n,), device=device)
        pos = torch.arange(n, device=device)
        taken = clock(lambda: step(token, pos), 5, 2)
        say(f"{name:5} bf16  prompt {n:8} {1e3 * n / taken:10.1f} tok/s {taken:9.3f} ms")
    del peer, step
    forget(device)


PARTS = {"device": measure_device, "decode": measure_decode, "prompt": measure_prompt}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes, on the CPU")
    parser.add_argument("only", nargs="*", help=f"of {', '.join([*PARTS, '1.5b', '8b'])}")
    options = parser.parse_args()
    device = "cpu" if options.rehearse else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: PyTorch finds no GPU; --rehearse runs on the CPU")
    torch.manual_seed(0)
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU, a rehearsal"
    say(f"bench/gpu_peers.py, {time.strftime('%Y-%m-%d')}, PyTorch {torch.__version__}, {where}")
    names = ["tiny"] if options.rehearse else ["8b", "1.5b"]
    names = [n for n in names if not set(options.only) & set(SHAPES) or n in options.only]
    parts = [p for p in PARTS if not set(options.only) & set(PARTS) or p in options.only]
    with torch.no_grad():
        for name in names:
            for part in parts:
                try:
                    PARTS[part](name, SHAPES[name], device, Clock(device))
                except RuntimeError as error:  # out of memory, a kernel that is missing
                    say(f"{name:5} {part}: {str(error).splitlines()[0][:120]}")
                    forget(device)


if __name__ == "__main__":
    main()
