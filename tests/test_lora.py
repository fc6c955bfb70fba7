#!/usr/bin/env python3
"""test_lora.py: adapters. What Python computes from the definition, W + X alpha / rank B A, is what
`convert --lora` writes, and `run --lora` says what the merged model says. Adapters that do not fit
are refused with the tensor's name, what was found and what was expected."""

import json
import os
import shutil

from badinput_files import (ALPHA, ARRAY, BF16, F16, F32, HIDDEN, Q8_0, STR, T_F32, U32, Gguf,
                            adapter, floats)
from check import ROOT, SCRATCH, check, check_equal, end, program, short, start
from show_gguf import Gguf as Reader

PROMPT = "def fib(n):\n    return"
SOURCE = os.path.join(ROOT, "tests", "data", "llama_mqa30")  # an untied head, H = 3, K = 1, D = 30
PLACE = os.path.join(SCRATCH, "lora")
Q5_0 = 6


def path(name):
    return os.path.join(PLACE, name)


def save(name, g):
    with open(path(name), "wb") as file:
        file.write(g if isinstance(g, bytes) else g.build())
    return path(name)


def convert(name, *arguments):
    """Runs ./convert ARGUMENTS[0] NAME ARGUMENTS[1:], which must succeed."""
    shutil.rmtree(path(name), ignore_errors=True)
    done = start(program("convert"), arguments[0], path(name), *arguments[1:])
    if done.returncode:
        check(f"convert {name}", False, short(done.stderr))
    return path(name)


def said(model, *more):
    """stdout of 24 greedy tokens with their 5 likeliest, as JSON lines."""
    done = start(program("run"), model, "-q", "-i", PROMPT, "-n", 24, "--logprobs", 5, *more)
    if done.returncode:
        check(f"run {model} {more}", False, short(done.stderr))
    return done.stdout


def numbers(out):
    return [[row["id"]] + [x for top in row["top"] for x in (top["id"], top["logprob"])]
            for row in map(json.loads, out.splitlines())]


def check_same(name, got, want, tolerance=1e-4):
    """The same tokens and, within the tolerance, the same log probabilities."""
    got, want = numbers(got), numbers(want)
    apart = max((abs(x - y) for a, b in zip(got, want) for x, y in zip(a, b)), default=1)
    check(name, len(got) == len(want) >= 12 and apart < tolerance,
          f"{len(got)} and {len(want)} tokens, apart by {apart:.2g}, expected {tolerance}")


def content(name):
    with open(path(name), "rb") as file:
        return file.read()


def merged_rows(model, lora, weight, times):
    """W + X alpha / rank B A from the definition."""
    a, b = lora.rows(weight + ".lora_a"), lora.rows(weight + ".lora_b")
    scale = times * lora.keys["adapter.lora.alpha"] / len(a)
    merged = model.rows(weight)
    for i, b_row in enumerate(b):
        for b_k, a_k in zip(b_row, a):
            merged[i] = [w + scale * b_k * x for w, x in zip(merged[i], a_k)]
    return merged


def check_merged(name, merged, model, lora, times=1.0):
    """The file `merged` is `model` and the adapter `lora` added up, number by number."""
    merged, model, lora = Reader(merged), Reader(model), Reader(lora)
    apart, untouched = 0, True
    for weight in model.tensors:
        rows = merged.rows(weight)
        if weight + ".lora_a" in lora.tensors:
            want = merged_rows(model, lora, weight, times)
            apart = max(apart, *(abs(x - y) for a, b in zip(rows, want) for x, y in zip(a, b)))
        else:
            untouched &= rows == model.rows(weight)
    check(name, untouched and apart < 2e-6 and list(merged.tensors) == list(model.tensors),
          f"apart by {apart:.2g}, expected 2e-6; what the adapter leaves alone is "
          f"{'untouched' if untouched else 'changed'}")


def test_definition(model, linear):
    """run and convert against Python, and against each other."""
    lora = save("all", adapter(linear, lambda name: 1 + len(name) % 4))
    merged = convert("merged", model, "--lora", lora)
    check_merged("convert --lora is W + alpha / rank B A", merged, model, lora)
    plain, tuned = said(model), said(model, "--lora", lora)
    check("the adapter changes the text",
          [row[0] for row in numbers(plain)] != [row[0] for row in numbers(tuned)])
    check_same("run --lora is the merged model", tuned, said(merged))
    greedy = [start(program("run"), *words, "-q", "-i", PROMPT, "-n", 60).stdout
              for words in ((model, "--lora", lora), (merged,))]
    check_equal("and so is its greedy text", *greedy)
    check_equal("scale 0 changes nothing", said(model, "--lora", lora, "--lora-scale", 0), plain)
    convert("zero", model, "--lora", lora, "--lora-scale", 0)
    check("merging 0 times changes nothing", content("zero") == content("model"))
    part = convert("quarter", model, "--lora", lora, "--lora-scale", 0.25)
    check_merged("convert --lora-scale", part, model, lora, 0.25)
    check_same("a quarter merged and three quarters beside it",
               said(part, "--lora", lora, "--lora-scale", 0.75), tuned)
    check_same("merged, then taken away", said(merged, "--lora", lora, "--lora-scale", -1), plain)
    double = save("double", adapter(linear, lambda name: 1 + len(name) % 4, 2 * ALPHA))
    check_equal("twice alpha is twice the scale", said(model, "--lora", double),
                said(model, "--lora", lora, "--lora-scale", 2))
    for threads, batch in (1, 64), (2, 1), (2, 7), (3, 7), (7, 64):
        check_equal(f"{threads} threads, batches of {batch}",
                    said(model, "--lora", lora, "-j", threads, "-b", batch), tuned)


def test_forms(model, linear):
    """Ranks, storage types, subsets of the layers, what may stand beside the pairs."""
    for kind, name in (F16, "f16"), (BF16, "bf16"):
        lora = save(name, adapter(linear, 2, kind=kind))
        merged = convert("merged-" + name, model, "--lora", lora)
        check_merged(f"an adapter of {name}", merged, model, lora)
        check_same(f"run with an adapter of {name}", said(model, "--lora", lora), said(merged))
    one, flat = (save(name, adapter(linear, 1, flat=name == "flat")) for name in ("one", "flat"))
    merged = convert("merged-one", model, "--lora", one)
    check_merged("rank 1", merged, model, one)
    check_same("run with rank 1", said(model, "--lora", one), said(merged))
    check_equal("rank 1, lora_a of one dimension", said(model, "--lora", flat),
                said(model, "--lora", one))
    convert("merged-flat", model, "--lora", flat)
    check("and merged", content("merged-flat") == content("merged-one"))
    for weight in "blk.1.ffn_down.weight", "blk.0.attn_k.weight", "output.weight":
        lora = save("single", adapter({weight: linear[weight]}, 40))
        merged = convert("merged-single", model, "--lora", lora)
        check_merged(f"{weight} alone, of rank 40", merged, model, lora)
        check_same(f"run with {weight} alone", said(model, "--lora", lora), said(merged))
    g = adapter(linear, 2)
    want = said(model, "--lora", save("plain", g))
    for i in reversed(range(len(g.tensors))):
        name, *rest = g.tensors[i]
        g.tensors[i:i] = [["opt.m." + name, *rest]]
    check_equal("the optimizer's state beside it", said(model, "--lora", save("opt", g)), want)
    g = adapter(linear, 2)
    g.tensors.reverse()
    g.checksums = "none"
    check_equal("another order of tensors, no checksums", said(model, "--lora", save("back", g)),
                want)


def test_types(model, linear):
    """Every storage type of the model; results in Hugging Face's form."""
    weights = {name: shape for name, shape in linear.items() if name != "blk.0.ffn_up.weight"}
    lora = save("some", adapter(weights, 2))
    tuned = convert("tuned", model, "--lora", lora)
    for kind in "f16", "bf16", "q8_0", "q4_0":
        base = convert("base-" + kind, model, "-q", kind)
        wide = convert("wide-" + kind, base, "-q", "f32", "--lora", lora)
        check_merged(f"convert {kind} to f32 with an adapter", wide, convert(
            "widened", base, "-q", "f32"), lora)
        check_same(f"run {kind} with an adapter", said(base, "--lora", lora, "--exact"),
                   said(wide, "--exact"))
        check(f"{kind}: batches do not matter", said(base, "--lora", lora, "-b", 5, "-j", 3) ==
              said(base, "--lora", lora, "-j", 1))
        convert("narrow", base, "--lora", lora)
        convert("narrowed", wide, "-q", kind)
        kept = [Reader(path("narrow")).tensors, Reader(base).tensors]
        check(f"{kind} stays {kind}", kept[0] == kept[1])
        if kind in ("f16", "bf16"):  # what a block rounds to once need not stay when rounded again
            check(f"{kind}: merged as float32, rounded once",
                  content("narrow") == content("narrowed"))
    convert("from-hf", SOURCE, "-q", "f32", "--lora", lora)
    check("from Hugging Face's order of rows", content("from-hf") == content("tuned"))
    for source in model, SOURCE:
        convert("hf", source, "-o", "hf", "-q", "f32", "--lora", lora)
        convert("there-and-back", path("hf"), "-q", "f32")
        theirs, ours = Reader(path("there-and-back")), Reader(tuned)
        check(f"-o hf from {os.path.basename(source)}",
              all(theirs.rows(name) == ours.rows(name) for name in ours.tensors))
    shutil.rmtree(path("hf"))


def refused(name, g, *words, model=None, code=1, more=()):
    """Both programs refuse the adapter g, with one line that has the words; nothing is written."""
    model = model or path("model")
    file = save("bad", g)
    for command in ((program("run"), model, "-q", "-i", "a", "-n", 1, "--lora", file, *more),
                    (program("convert"), model, path("out"), "--lora", file, *more)):
        done = start(*command)
        lines = done.stderr.decode(errors="replace").splitlines()
        check(f"{os.path.basename(command[0])}: {name}", done.returncode == code and
              len(lines) == 1 and lines[0].startswith("error: ") and not done.stdout and
              all(str(word) in lines[0] for word in words) and not os.path.exists(path("out")),
              f"exit code {done.returncode}, {short(done.stderr)}, expected {code} and {words}")


def changed(linear, **keys):
    g = adapter(linear, 2)
    for key, value in keys.items():
        g.set(key.replace("__", "."), *value)
    return g


def renamed(linear, old, new):
    g = adapter(linear, 2)
    g.tensor(old)[0] = new
    return g


def test_refusals(linear):
    some = {name: linear[name] for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight")}
    refused("a model", content("model"), path("bad"), "general.type", "(missing)", "adapter")
    refused("not GGUF", b"PK\3\4" + bytes(100), path("bad"), "GGUF")
    refused("an empty file", b"", path("bad"), "empty")
    for key, kind, value, *words in (
            ("general.type", STR, "model", "general.type: model", "expected adapter"),
            ("adapter.type", STR, "control_vector", "control_vector", "expected lora"),
            ("adapter.type", U32, 1, "adapter.type", "string"),
            ("general.architecture", STR, "qwen2", "qwen2", "expected llama"),
            ("adapter.lora.alpha", F32, float("nan"), "adapter.lora.alpha", "nan", "finite"),
            ("adapter.lora.alpha", F32, float("inf"), "adapter.lora.alpha", "inf", "finite"),
            ("adapter.lora.alpha", F32, 0.0, "adapter.lora.alpha", "above 0"),
            ("adapter.lora.alpha", U32, 16, "adapter.lora.alpha", "f32"),
            ("adapter.alora.invocation_tokens", ARRAY, (U32, [1, 2]), "invocation_tokens")):
        refused(f"{key} {value!r}", changed(some, **{key.replace(".", "__"): (kind, value)}),
                path("bad"), *words)
    for key in "adapter.type", "general.type", "general.architecture", "adapter.lora.alpha":
        refused(f"no {key}", adapter(some).drop(key), key, "missing")
    q = "blk.0.attn_q.weight"
    rows, cols = linear[q]
    refused("lora_a alone", adapter(some).drop(q + ".lora_b"), q + ".lora_a", q + ".lora_b", "both")
    refused("lora_b alone", adapter(some).drop(q + ".lora_a"), q + ".lora_b", q + ".lora_a", "both")
    refused("columns", adapter({q: (rows, cols + 1)}), q + ".lora_a", f"3 x {cols + 1}",
            f"3 x {cols}")
    refused("rows", adapter({q: (rows - 1, cols)}), q + ".lora_b", f"{rows - 1} x 3", f"{rows} x 3")
    mixed = adapter({q: (rows, cols)}, 3)
    mixed.tensors[1] = adapter({q: (rows, cols)}, 2).tensors[1]
    refused("two ranks", mixed, q + ".lora_b", f"{rows} x 2", f"{rows} x 3")
    refused("turned on its side", adapter({"blk.0.ffn_up.weight": linear["blk.0.ffn_down.weight"]}),
            "blk.0.ffn_up.weight.lora_a", "3 x 172", "3 x 90")
    refused("rank 0", adapter({q: (rows, cols)}, 0), q + ".lora_a", "0 x")
    refused("a layer too many", adapter({"blk.2.attn_q.weight": (rows, cols)}),
            "blk.2.attn_q.weight.lora_a", "no such weight")
    refused("the embedding", adapter({"token_embd.weight": (357, 90)}), "token_embd.weight.lora_a",
            "embedding", "not supported")
    refused("a norm", adapter({"blk.0.attn_norm.weight": (1, 90)}), "attn_norm.weight.lora_a",
            "norms", "not supported")
    refused("a bias", renamed(some, q + ".lora_b", "blk.0.attn_q.bias"), "lora_b", "both")
    refused("a tensor of another kind", renamed(some, q + ".lora_a", "x.lora_c"), "x.lora_c",
            ".lora_a")
    refused("no name before .lora_a", renamed(some, q + ".lora_a", ".lora_a"), "expected")
    refused("no tensors", adapter({}), "no tensors", "pairs")
    refused("a pair twice", adapter(some, 2).build().replace(b"blk.1.ffn_down.weight.lora_a",
                                                            b"blk.1.ffn_down.weight.lora_b"),
            path("bad"))
    wrong = adapter(some)
    wrong.tensor(q + ".lora_a")[2] = 10
    refused("a storage type that is not read", wrong, q + ".lora_a", "q2_k")
    wrong = adapter(some)
    wrong.checksums = "wrong"
    refused("a damaged header", wrong, "CRC32C")
    whole = adapter(some, 2).build()
    refused("a damaged number", whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:], "CRC32C")
    for n in range(0, len(whole), max(1, len(whole) // 8)):
        refused(f"cut to {n} bytes", whole[:n], path("bad"))


def test_lines(model, linear):
    """Command lines, and what cannot be done."""
    some = {"blk.0.attn_q.weight": linear["blk.0.attn_q.weight"]}
    good = adapter(some)
    refused("--lora-scale nan", good, "--lora-scale", "nan", code=2, more=("--lora-scale", "nan"))
    refused("--lora-scale 1e9", good, "--lora-scale", "1e9", code=2, more=("--lora-scale", "1e9"))
    file = save("good", good)
    done = start(program("run"), file, "-i", "a")
    check("an adapter as the model", done.returncode == 1 and b"use --lora" in done.stderr,
          short(done.stderr))
    for words in (["run", model, "-i", "a", "--lora-scale", 2],
                  ["convert", model, path("out"), "--lora-scale", 2],
                  ["convert", model, path("out"), "--lora", file, "--keep-optimizer"],
                  ["convert", model, file, "--lora", file],
                  ["convert", "--inspect", model, "--lora", file],
                  ["convert", "--random", "tiny", path("out"), "--lora", file]):
        done = start(program(words[0]), *words[1:])
        check("usage: " + " ".join(map(os.path.basename, map(str, words))),
              done.returncode == 2 and done.stderr.startswith(b"error: "), short(done.stderr))
    done = start(program("run"), model, "-i", "a", "-n", 1, "--lora", file)
    check("run tells of the adapter", b"an adapter of 1 matrices, rank 3, alpha 6" in done.stderr,
          short(done.stderr))
    tied = convert("tied", os.path.join(ROOT, "tests", "data", "llama_gqa20"))
    refused("a head that is the embedding", adapter({"output.weight": (353, 96)}), "output.weight",
            "no such weight", model=tied)
    blocks = Gguf().store("blk.0.ffn_gate.weight", Q5_0, bytes(22 * HIDDEN))
    model = save("q5_0", blocks)
    lora = save("gate", adapter({"blk.0.ffn_gate.weight": (HIDDEN, 32)}, 32, kind=Q8_0))
    done = start(program("convert"), model, path("out"), "--lora", lora)
    check("a type that cannot be written again", done.returncode == 1 and
          b"blk.0.ffn_gate.weight" in done.stderr and b"q5_0" in done.stderr and
          not os.path.exists(path("out")), short(done.stderr))
    wide = convert("wide", model, "-q", "f32")
    merged = convert("merged-q5_0", model, "-q", "f32", "--lora", lora)
    check_merged("but with -q, and an adapter of q8_0", merged, wide, lora)
    lora = save("head", adapter({"output.weight": (32, 32)}, 32, kind=Q8_0))
    merged = convert("merged-head", wide, "--lora", lora)
    check_same("a quantized adapter is multiplied in float32", said(wide, "--lora", lora),
               said(merged))
    huge = adapter(some)
    for i in range(len(huge.tensors)):
        huge.tensors[i][3] = floats([3e38] * (len(huge.tensors[i][3]) // 4))
    check_equal("scale 0 does not even look at it", said(path("model"), "--lora", save(
        "huge", huge), "--lora-scale", 0), said(path("model")))
    done = start(program("convert"), path("model"), path("out"), "--lora", path("huge"))
    check("a sum that is not finite", done.returncode == 1 and b"attn_q" in done.stderr and
          b"finite" in done.stderr and not os.path.exists(path("out")), short(done.stderr))


def main():
    shutil.rmtree(PLACE, ignore_errors=True)
    os.makedirs(PLACE)
    model = convert("model", SOURCE, "-q", "f32")
    linear = {name: (rows, cols) for name, (rows, cols, *_) in Reader(model).tensors.items()
              if "norm" not in name and name != "token_embd.weight"}
    test_definition(model, linear)
    test_forms(model, linear)
    test_types(model, linear)
    test_refusals(linear)
    test_lines(model, linear)
    end()


main()
