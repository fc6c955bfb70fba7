#!/usr/bin/env python3
"""make_train_fixtures.py: records what tests/test_train.c compares with.

Run once by us (`make fixtures PYTHON=...`, after make_fixtures.py) with torch, transformers 4.x or
5.x and gguf. For every model tests/data/llama_NAME it writes tests/data/train_NAME_CASE.gguf:

    plain    2 rows of 13         masked   NO_LOSS marks, and a row of nothing else
    lora     adapters alone       packed   STARTS marks: several documents in a row
    one      3 rows of 1          long     3 rows of 65           (these two: gradients alone)

transformers computes in float32 with eager attention; documents of a packed row are kept apart by
a block-diagonal mask and position ids of their own. A plain Llama of our own in float64 (llama
below) does it all again: how far the two are apart is printed. A reference holds, as keys:

    model, case, versions, seed, B, T
    tokens, scale    batches of (B, T + 1) u32 with the marks of shards.h; an f32 for each batch:
                     1 / the number of its targets. Losses are sums times scale.
    loss, loss64     of batch 0, from float32 (f32) and from float64 (f64)
    losses, norms    of as many AdamW updates as there are batches, batch k for update k, before
                     it: loss, and norm of all gradients before clipping; losses64, norms64 too
    lr, beta1, beta2, eps, weight_decay, clip        f32, where there are losses. Decay is for
                     matrices alone; gradients are multiplied by min(1, clip / (norm + 1e-6)).
    lora_rank, lora_alpha     u32, f32: W + alpha / rank B A stands for each W of a layer

and as f32 tensors, rows of wq and wk in GGUF's order (NAME: as in the model, or NAME.lora_a and
NAME.lora_b of shapes (rank, in) and (out, rank)):

    grad.NAME        gradient of batch 0: r of its R rows, row j being row j R / r of it
    grad.NAME.rowsum, grad.NAME.colsum    where r < R: sum_c G[r][c] probe[c] for every row and
                     sum_r probe[r] G[r][c] for every column of the gradient G: they notice a
                     mistake anywhere in it, and are much smaller
    probe            numbers from 0.5 to 1.5, as many as the longest sum needs
    after.NAME       the weight after all updates, rows as in grad.NAME: in AFTER alone
    init.NAME        lora: the adapter's values at the start, whole"""

import os
import sys

import gguf
import numpy as np
import torch
import transformers

from make_fixtures import DATA, MODELS, VERSIONS, add_matrix, close, read_json

NO_LOSS, STARTS, ID = 0x80000000, 0x40000000, 0x3FFFFFFF
N_UPDATES, N_ROWS = 10, 3
ADAMW = dict(lr=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, clip=1.0)
RANK, ALPHA = 3, 6.0
AFTER = [("llama_v5", "plain"), ("llama_v5", "lora"), ("llama_gqa20", "plain")]

# case: (B, T, share of NO_LOSS, share of STARTS, batches, models)
CASES = {
    "plain": (2, 13, 0, 0, N_UPDATES, list(MODELS)),
    "masked": (2, 13, 0.4, 0, N_UPDATES, list(MODELS)),
    "packed": (2, 29, 0.2, 0.2, N_UPDATES, list(MODELS)),
    "lora": (2, 13, 0, 0, N_UPDATES, list(MODELS)),
    "one": (3, 1, 0, 0, 1, ["llama_v5", "llama_mqa30"]),
    "long": (3, 65, 0, 0, 1, ["llama_v5", "llama_mqa30"]),
}

LAYER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}


def hf_names(config):
    """Names of the tensors of a model: {GGUF's: transformers'}. Tied: there is no output."""
    names = {"token_embd.weight": "model.embed_tokens.weight"}
    for layer in range(config.num_hidden_layers):
        for ours, theirs in LAYER.items():
            names[f"blk.{layer}.{ours}.weight"] = f"model.layers.{layer}.{theirs}.weight"
    names["output_norm.weight"] = "model.norm.weight"
    if not config.tie_word_embeddings:
        names["output.weight"] = "lm_head.weight"
    return names


def gguf_rows(name, matrix, config):
    """Rows of a head from (0, D/2, 1, ...), as transformers turns them, to neighbours (0, 1, ...).
    What has the rows of wq and wk is moved: they, their gradients, B of their adapters."""
    if not (".attn_q." in name or ".attn_k." in name) or name.endswith(".lora_a"):
        return matrix
    half = head_dim(config) // 2
    return matrix.reshape(-1, 2, half, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)


def head_dim(config):
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def rope_theta(config):
    if hasattr(config, "rope_theta"):  # transformers 4
        return config.rope_theta
    return config.rope_parameters["rope_theta"]


def load(directory):
    """A model in float32 as transformers 4 and 5 read it; 4 does not know 5's key of theta."""
    config = transformers.LlamaConfig.from_pretrained(directory)
    if hasattr(config, "rope_theta"):
        saved = read_json(directory, "config.json")
        config.rope_theta = saved.get("rope_parameters", saved)["rope_theta"]
    model = transformers.LlamaForCausalLM.from_pretrained(
        directory, config=config, dtype=torch.float32, attn_implementation="eager").eval()
    model.model.embed_tokens.padding_idx = None  # would take id 3 out of the gradient
    return model


# ------------------------------------------------------------------------------------- batches


def make_batch(random, vocab_size, rows, length, unmarked, starts, number):
    """(B, T + 1) tokens with marks. A masked batch has a row without any target. In batch 0 are
    the tokens whose gradients are recorded (see sampled_rows), or those would be zero."""
    tokens = random.integers(0, vocab_size, (rows, length + 1), dtype=np.uint32)
    if number == 0:
        tokens[-1, :-1][:N_ROWS] = (np.arange(N_ROWS) * vocab_size // N_ROWS)[:length]
    tokens[random.random(tokens.shape) < unmarked] |= NO_LOSS
    if unmarked and not starts:
        tokens[number % rows] |= NO_LOSS
    tokens[random.random(tokens.shape) < starts] |= STARTS
    return tokens


def n_targets(tokens):
    return int((tokens[:, 1:] & NO_LOSS == 0).sum())


def meaning(tokens):
    """Marked tokens as (inputs, targets, targets that count, positions, who sees whom)."""
    length = tokens.shape[1] - 1
    place = np.arange(length)
    starts = tokens[:, :-1] & STARTS != 0
    document = starts.cumsum(1)
    positions = place - np.maximum.accumulate(np.where(starts, place, 0), 1)
    sees = (document[:, :, None] == document[:, None, :]) & (place[:, None] >= place)
    ids = (tokens & ID).astype(np.int64)
    counts = tokens[:, 1:] & NO_LOSS == 0
    return [torch.from_numpy(np.ascontiguousarray(x))
            for x in (ids[:, :-1], ids[:, 1:], counts, positions, sees)]


# ------------------------------------------------------------ the two who compute the same loss


def hf_logits(model, weights, ids, positions, sees):
    """transformers, with these weights in the place of its own."""
    mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
    inputs = dict(input_ids=ids, position_ids=positions, attention_mask=mask[:, None],
                  use_cache=False)
    return torch.func.functional_call(model, weights, (), inputs).logits


def norm(x, weight, config):
    return weight * x * (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).rsqrt()


def rope(x, positions, config):
    """x (B, heads, T, D): pairs (i, i + D/2) turn by position theta^(-2i/D)."""
    half = x.shape[-1] // 2
    speed = float(rope_theta(config)) ** (-torch.arange(half, dtype=x.dtype) / half)
    angle = positions[:, None, :, None].to(x.dtype) * speed
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def llama(model, weights, ids, positions, sees):
    """The same in whatever type the weights have, with nothing in between in a narrower one."""
    config, n_batch, length = model.config, *ids.shape
    group = config.num_attention_heads // config.num_key_value_heads
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(config.num_hidden_layers):
        w = {ours: weights[f"model.layers.{layer}.{theirs}.weight"]
             for ours, theirs in LAYER.items()}
        normed = norm(x, w["attn_norm"], config)
        q, k, v = ((normed @ w[name].T).view(n_batch, length, -1, head_dim(config)).transpose(1, 2)
                   for name in ("attn_q", "attn_k", "attn_v"))
        q, k = rope(q, positions, config), rope(k, positions, config)
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        score = (q @ k.transpose(2, 3) / head_dim(config) ** 0.5).masked_fill(
            ~sees[:, None], -torch.inf)
        out = (score.softmax(-1) @ v).transpose(1, 2).reshape(n_batch, length, -1)
        x = x + out @ w["attn_output"].T
        normed = norm(x, w["ffn_norm"], config)
        gate = torch.nn.functional.silu(normed @ w["ffn_gate"].T)
        x = x + gate * (normed @ w["ffn_up"].T) @ w["ffn_down"].T
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return norm(x, weights["model.norm.weight"], config) @ head.T


class Training:
    """Weights of one type, what of them is trained (by GGUF's names), and how to get losses."""

    def __init__(self, model, logits, dtype, adapter=None):
        self.model, self.logits, self.names = model, logits, hf_names(model.config)
        frozen = {name: model.get_parameter(name).detach().to(dtype, copy=True)
                  for name in self.names.values()}
        if adapter is None:
            self.trained = {name: frozen[other].requires_grad_()
                            for name, other in self.names.items()}
        else:
            self.trained = {name: value.to(dtype, copy=True).requires_grad_()
                            for name, value in adapter.items()}
        self.frozen, self.adapted = frozen, adapter is not None

    def weights(self):
        if not self.adapted:
            return self.frozen
        weights = dict(self.frozen)
        for name, other in self.names.items():
            if name + ".lora_a" in self.trained:
                a, b = self.trained[name + ".lora_a"], self.trained[name + ".lora_b"]
                weights[other] = weights[other] + ALPHA / RANK * (b @ a)
        return weights

    def backward(self, tokens, scale):
        """The loss; its gradients replace those that are there."""
        ids, targets, counts, positions, sees = meaning(tokens)
        for weight in self.trained.values():
            weight.grad = None
        logits = self.logits(self.model, self.weights(), ids, positions, sees)
        each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(),
                                                 reduction="none")
        loss = (each * counts.flatten()).sum() * float(scale)
        loss.backward()
        return loss.item()

    def gradients(self):
        return {name: gguf_rows(name, weight.grad.numpy().copy(), self.model.config)
                for name, weight in self.trained.items()}

    def values(self):
        return {name: gguf_rows(name, weight.detach().numpy().copy(), self.model.config)
                for name, weight in self.trained.items()}

    def train(self, batches, scales):
        """AdamW updates, a batch each; keeps their losses and gradient norms."""
        matrices = [w for w in self.trained.values() if w.dim() == 2]
        vectors = [w for w in self.trained.values() if w.dim() == 1]
        optimizer = torch.optim.AdamW(
            [dict(params=matrices, weight_decay=ADAMW["weight_decay"]),
             dict(params=vectors, weight_decay=0.0)][:2 if vectors else 1],
            lr=ADAMW["lr"], betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["eps"])
        self.losses, self.norms = [], []
        for tokens, scale in zip(batches, scales):
            self.losses.append(self.backward(tokens, scale))
            length = torch.nn.utils.clip_grad_norm_(self.trained.values(), ADAMW["clip"])
            self.norms.append(length.item())
            optimizer.step()


# ------------------------------------------------------------------------------------- the files


def random_adapter(config, random):
    """A and B for every matrix of every layer, rows in transformers' order. B is not zero, as it
    would be at the start of a training, or the gradient of A would be."""
    n_inner = config.num_attention_heads * head_dim(config)
    n_kv, dim, hidden = (config.num_key_value_heads * head_dim(config), config.hidden_size,
                         config.intermediate_size)
    shapes = {"attn_q": (n_inner, dim), "attn_k": (n_kv, dim), "attn_v": (n_kv, dim),
              "attn_output": (dim, n_inner), "ffn_gate": (hidden, dim), "ffn_up": (hidden, dim),
              "ffn_down": (dim, hidden)}
    adapter = {}
    for layer in range(config.num_hidden_layers):
        for part, (n_out, n_in) in shapes.items():
            name = f"blk.{layer}.{part}.weight"
            a = random.normal(0, n_in ** -0.5, (RANK, n_in))
            b = random.normal(0, 0.3, (n_out, RANK))
            adapter[name + ".lora_a"] = torch.from_numpy(a.astype(np.float32))
            adapter[name + ".lora_b"] = torch.from_numpy(b.astype(np.float32))
    return adapter


def add_f64(writer, key, value):
    if isinstance(value, list):
        writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.FLOAT64)
    else:
        writer.add_float64(key, value)


def sampled_rows(matrix, most):
    """Row j of the result is row j R / r: all of them where that many may be kept."""
    rows = matrix.shape[0]
    if matrix.ndim == 1 or rows <= most:
        return matrix
    return matrix[np.arange(most) * rows // most]


def add_gradients(writer, gradients, most_rows, seed):
    longest = max(max(gradient.shape) for gradient in gradients.values())
    probe = np.random.default_rng(seed).uniform(0.5, 1.5, longest).astype(np.float32)
    add_matrix(writer, "probe", probe)
    probe = probe.astype(np.float64)
    for name, gradient in gradients.items():
        part = sampled_rows(gradient, most_rows)
        add_matrix(writer, f"grad.{name}", part)
        if part is not gradient:
            add_matrix(writer, f"grad.{name}.rowsum", gradient @ probe[:gradient.shape[1]])
            add_matrix(writer, f"grad.{name}.colsum", probe[:gradient.shape[0]] @ gradient)


def distance(got, want):
    """The largest |got - want| / max |want| of all tensors, and the name of that tensor."""
    return max((float(np.abs(got[name] - want[name]).max() / (np.abs(want[name]).max() + 1e-30)),
                name) for name in want)


def begin_reference(path, model, case, batches, seed):
    writer = gguf.GGUFWriter(path, "reference")
    writer.add_string("model", model)
    writer.add_string("case", case)
    writer.add_string("versions", VERSIONS)
    writer.add_uint32("seed", seed)
    writer.add_uint32("B", batches[0].shape[0])
    writer.add_uint32("T", batches[0].shape[1] - 1)
    tokens = np.concatenate([tokens.flatten() for tokens in batches]).tolist()
    writer.add_key_value("tokens", tokens, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32)
    return writer


def add_updates(writer, ours, exact, most_rows, with_weights):
    writer.add_array("losses", ours.losses)
    writer.add_array("norms", ours.norms)
    add_f64(writer, "losses64", exact.losses)
    add_f64(writer, "norms64", exact.norms)
    for key, value in ADAMW.items():
        writer.add_float32(key, value)
    for name, weight in ours.values().items() if with_weights else []:
        add_matrix(writer, f"after.{name}", sampled_rows(weight, most_rows))


def apart(ours, exact):
    """How far the losses of all updates are apart, relative."""
    return float(np.abs(np.array(ours.losses) / exact.losses - 1).max())


def compute(model, case, seed):
    """Everything that is recorded: the batches with their scales, and what was started on them."""
    rows, length, unmarked, starts, n_batches, _ = CASES[case]
    random = np.random.default_rng(seed)
    batches = [make_batch(random, model.config.vocab_size, rows, length, unmarked, starts, number)
               for number in range(n_batches)]
    scales = [float(np.float32(1 / n_targets(tokens))) for tokens in batches]
    adapter = random_adapter(model.config, random) if case == "lora" else None
    runs = [Training(model, hf_logits, torch.float32, adapter),
            Training(model, llama, torch.float64, adapter)]
    for run in runs:
        run.initial = run.values() if adapter else {}
        run.loss = run.backward(batches[0], scales[0])
        run.gradient = run.gradients()
        run.train(batches if n_batches > 1 else [], scales)
    return batches, scales, *runs


def write_reference(path, name, model, case, seed):
    for _ in range(50):
        batches, scales, ours, exact = compute(model, case, seed)
        if not ours.losses or apart(ours, exact) < 5e-7:
            break
        seed += 1000
    else:
        sys.exit(f"{path}: no batches whose updates are clear of rounding")
    writer = begin_reference(path, name, case, batches, seed)
    writer.add_array("scale", scales)
    if ours.adapted:
        writer.add_uint32("lora_rank", RANK)
        writer.add_float32("lora_alpha", ALPHA)
    for key, value in ours.initial.items():
        add_matrix(writer, f"init.{key}", value)
    writer.add_float32("loss", ours.loss)
    add_f64(writer, "loss64", exact.loss)
    most_rows = sys.maxsize if ours.adapted else N_ROWS
    add_gradients(writer, ours.gradient, most_rows, seed)
    error, worst = distance(ours.gradient, exact.gradient)
    report = f"loss {ours.loss:.4f}, {abs(ours.loss / exact.loss - 1):.1e} apart, " \
             f"gradients {error:.1e} ({worst})"
    if ours.losses:
        add_updates(writer, ours, exact, most_rows, (name, case) in AFTER)
        error, worst = distance(ours.values(), exact.values())
        report += f"; updates: losses to {ours.losses[-1]:.4f}, {apart(ours, exact):.1e} apart, " \
                  f"norms {min(ours.norms):.2f} to {max(ours.norms):.2f}, " \
                  f"weights {error:.1e} ({worst})"
    close(writer)
    print(f"{os.path.basename(path)}: {os.path.getsize(path)} bytes; {report}", flush=True)


def write_plain(path, name, model, rows, length, seed):
    """Loss and whole gradients of one batch without marks, for full_layer_train.py."""
    random = np.random.default_rng(seed)
    batch = make_batch(random, model.config.vocab_size, rows, length, 0, 0, 0)
    run = Training(model, hf_logits, torch.float32)
    scale = float(np.float32(1 / n_targets(batch)))
    writer = begin_reference(path, name, "plain", [batch], seed)
    writer.add_array("scale", [scale])
    writer.add_float32("loss", run.backward(batch, scale))
    add_gradients(writer, run.gradients(), sys.maxsize, seed)
    close(writer)


def main():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for number, name in enumerate(MODELS):
        model = load(os.path.join(DATA, name))
        for i, (case, (*_, models)) in enumerate(CASES.items()):
            path = os.path.join(DATA, f"train_{name.removeprefix('llama_')}_{case}.gguf")
            if name in models:
                write_reference(path, name, model, case, 10 * number + i + 100)


if __name__ == "__main__":
    main()
