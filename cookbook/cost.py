"""cost.py: what the training of a plan for GPUs costs, computed, in hours of one H200.

What to know first: a token costs 6 operations for each weight that it is multiplied with, forward
and backward, and 6 L q_dim t more for attention in rows of t positions: scores and sums of L
layers over t / 2 positions on average, once forward and twice backward. A GPU reaches a part of
its peak, the model FLOPs utilization (MFU). No figure of this repository's own on a GPU stands
behind it: it is a parameter, [plan] mfu. For comparison, the paper's 28,000 hours of H800 for the
1.5B and 96,000 hours of H100 for the 8B (arXiv 2411.04905) come to 0.25 and 0.38 this way."""

PEAK = 989e12  # bfloat16, dense, of an H200 as of an H100: NVIDIA's data sheet
SHAPES = {  # dim, hidden, layers, query and key/value width
    "1.5b": (2240, 6144, 24, 2240, 2240), "8b": (4096, 14336, 32, 4096, 1024),
}


def weights(shape, vocabulary):
    """Weights that a token is multiplied with: all but the embedding, of which it takes a row."""
    dim, hidden, layers, q, kv = SHAPES[shape]
    return layers * (2 * dim * q + 2 * dim * kv + 3 * dim * hidden) + vocabulary * dim


def operations(shape, vocabulary, length):
    """Of a token, forward and backward, in rows of `length`."""
    layers, q = SHAPES[shape][2], SHAPES[shape][3]
    return 6 * weights(shape, vocabulary) + 6 * layers * q * length


def lines(plan):
    """Yields a line for each stage of pretraining and annealing, and their sum."""
    shape = plan.get("pretrain-1", "shape") or plan.get("pretrain", "shape")
    if shape not in SHAPES:
        return
    vocabulary = plan.number("vocabulary", "vocab", 96640)
    mfu, peak = plan.number("plan", "mfu", 0.4), plan.number("plan", "peak", PEAK)
    total = 0.0
    for stage in "pretrain-1", "pretrain", "anneal":
        length, rows, steps = (plan.number(stage, key, 0) for key in ("seq-len", "batch", "steps"))
        if not length * rows * steps:
            continue
        tokens = length * rows * steps
        flops = operations(shape, vocabulary, length) * tokens
        hours = flops / (peak * mfu) / 3600
        total += hours
        yield (f"{stage}: {tokens:.3g} tokens, {weights(shape, vocabulary):.4g} weights a token, "
               f"{flops:.3g} operations: {hours:,.0f} hours of an H200 at {mfu:g} of {peak:.3g}/s")
    yield (f"together {total:,.0f} hours, computed: no GPU figure of ours has been measured, the "
           f"share {mfu:g} is a guess; hours = operations / ({peak:.3g} x share) / 3600")
