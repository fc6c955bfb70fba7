"""badinput_gguf.py: GGUF models and the vocabularies in them.

Nearly every broken model comes with its header's checksum corrected, so that the check behind the
checksum is what answers, to run and to convert; and with a wrong one, as damage would leave it."""

import functools
import math
import os
import random
import struct

from badinput_case import accept, act, broken, reject, start
from badinput_files import (A, ARRAY, BF16, BOOL, BYTES, CONTROL, DIM, F16, F32, F64, HIDDEN, I8,
                            I16, I32, I64, LFS, NORMAL, Q8_0, STR, TOKENS, T_F32, U16, U32, U64, U8,
                            UNKNOWN, Gguf, Raw, adapter, bfloat, half, llama2c, q8_0, safetensors,
                            text, torch_zip, weights)
from check import short

RUN = "run m.gguf -i a -n 3"
SAYS = b"abcd\n"
WITH_BYTES = (*TOKENS, *BYTES)


def refused(name, change, *words, tokens=tuple(TOKENS), converts=True):
    """The cases of a model that change(Gguf) has broken: three, or two where convert has no say."""
    for sums, command in ("right", RUN), ("wrong", RUN), ("right", "convert m.gguf OUT"):
        if command != RUN and not converts:
            continue
        g = Gguf(tokens, sums)
        change(g)
        title = f"gguf: {name}" + {"wrong": ", wrong checksum"}.get(sums, "")
        if command != RUN:
            title += ", convert"
        yield reject(title, command, {"m.gguf": g.build()}, "m.gguf",
                     *(words if sums == "right" else ()))


def accepted(name, change, says=SAYS, **more):
    g = Gguf(**more)
    change(g)
    return accept(f"gguf: {name}", RUN, {"m.gguf": g.build()}, says)


def raw(name, content, *words):
    return reject(f"gguf: {name}", RUN, {"m.gguf": content}, "m.gguf", *words)


def whole_files():
    """Files that are no model at all, or not all of one."""
    noise = random.Random(1)
    g = Gguf()
    model = g.build()
    yield accept("gguf: control", RUN, {"m.gguf": model}, SAYS)
    yield accept("gguf: control, without checksums", RUN,
                 {"m.gguf": Gguf(checksums="none").build()}, SAYS)
    yield accept("gguf: control, byte tokens", RUN, {"m.gguf": Gguf(WITH_BYTES).build()}, SAYS)
    yield accept("gguf: control, to its end", "run m.gguf -i w -n 0", {"m.gguf": model}, b"wxyz\n")
    yield accept("gguf: control, convert", "convert m.gguf OUT && run OUT -i a -n 3",
                 {"m.gguf": model}, SAYS, made=["OUT"])
    yield accept("gguf: control, --check", "convert --check m.gguf", {"m.gguf": model},
                 lambda out: b"21 tensors" in out)
    yield raw("empty", b"", "empty", "0 bytes")
    yield raw("1 byte", b"G", "GGUF")
    yield raw("LFS pointer", LFS, "LFS pointer", "git lfs pull")
    yield raw("an error page", b"<!DOCTYPE html><title>404 Not Found</title>", "GGUF")
    yield raw("64 KB of zeros", bytes(65536), "GGUF")
    yield raw("64 KB of noise", noise.randbytes(65536), "GGUF")
    yield raw("magic, then noise", b"GGUF\3\0\0\0" + noise.randbytes(65536), "keys")
    yield raw("bytes 0xFF behind the magic", b"GGUF" + b"\xff" * 4096, "version 4294967295")
    yield raw("a safetensors file", safetensors(), "GGUF")
    yield raw("a PyTorch archive", torch_zip().build(), "GGUF")
    yield raw("a llama2.c model", llama2c(), "GGUF", "./convert")
    ends = [("0", 0)] + g.marks
    for (_, start), (name, end) in zip(ends, ends[1:]):
        for at in {(start + end) // 2, end} - {0, len(model)}:
            place = "behind" if at == end else "within"
            yield raw(f"cut off {place} {name}", model[:at])
    yield raw("4 KB more", model + noise.randbytes(4096), "output.weight", "4096 bytes follow")
    yield raw("32 zeros more", model + bytes(32), "output.weight", "32 bytes follow")
    yield raw("twice", model + model, "output.weight")


def header():
    for magic in b"GGUG", b"FUGG", b"gguf", b"GGML", b"lmgg", b"\x7fELF":
        g = Gguf()
        g.magic = magic
        yield raw(f"magic {magic}", g.build(), '"GGUF"')
        yield reject(f"gguf: magic {magic}, convert", "convert m.gguf OUT", {"m.gguf": g.build()},
                     "m.gguf", "llama2.c")  # whose files have no magic
    for version in 0, 1, 4, 0x7FFFFFFF:
        yield from refused(f"version {version}", lambda g, v=version: setattr(g, "version", v),
                           f"version {version}", "expected 3")
    yield from refused("big-endian", lambda g: setattr(g, "version", 0x03000000), "big-endian")
    yield accepted("version 2", lambda g: setattr(g, "version", 2))
    for count in 2 ** 63, 2 ** 64 - 1, 2 ** 32, 2 ** 20, 10 ** 6:
        yield from refused(f"{count} keys", lambda g, n=count: setattr(g, "n_keys", n), count)
        yield from refused(f"{count} tensors", lambda g, n=count: setattr(g, "n_tensors", n), count)
    yield from refused("a key more than there are", lambda g: setattr(g, "n_keys", 25))
    yield from refused("a key less than there are", lambda g: setattr(g, "n_keys", 23))
    yield from refused("no keys", lambda g: setattr(g, "n_keys", 0))
    yield from refused("a tensor more than there are", lambda g: setattr(g, "n_tensors", 22))
    yield from refused("a tensor less than there are", lambda g: setattr(g, "n_tensors", 20))
    yield from refused("no tensors", lambda g: setattr(g, "n_tensors", 0))


def key_syntax():
    """Keys that cannot be read, whatever they say."""
    def first(g, name, kind, value):
        g.keys.insert(0, [name, kind, value])

    def long_name(g, length):
        """The name of the first key says that it is `length` bytes long."""
        g.keys[0][0] = b""
        g.magic, g.version = b"GGUF", 3
        g.keys.insert(0, ["x", U8, Raw(b"\0" + struct.pack("<Q", length) + b"general")])

    for length in 2 ** 64 - 1, 2 ** 63, 2 ** 32, 100000:
        yield from refused(f"a name of {length} bytes",
                           lambda g, n=length: long_name(g, n), "past the end")
        yield from refused(f"a string of {length} bytes", lambda g, n=length: first(
            g, "x", STR, Raw(struct.pack("<Q", n) + b"text")), "key x", "past the end")
    yield from refused("an empty name", lambda g: first(g, "", U8, 1), "0 bytes")
    yield from refused("a name of 65536 bytes", lambda g: first(g, "n" * 65536, U8, 1), "65536")
    for kind in 13, 255, 2 ** 32 - 1:
        yield from refused(f"value type {kind}",
                           lambda g, k=kind: first(g, "x", k, Raw(b"12345678")),
                           "key x", kind)
        yield from refused(f"item type {kind}", lambda g, k=kind: first(
            g, "x", ARRAY, Raw(struct.pack("<IQ", k, 1) + b"12345678")), "key x", kind)
    yield from refused("array of arrays", lambda g: first(
        g, "x", ARRAY, Raw(struct.pack("<IQIQ", ARRAY, 1, U8, 1) + b"1")), "arrays of arrays")
    yield from refused("arrays 100000 deep", lambda g: first(
        g, "x", ARRAY, Raw(struct.pack("<IQ", ARRAY, 1) * 100000)), "arrays of arrays")
    for kind, count in ((U8, 2 ** 64 - 1), (U64, 2 ** 61), (U64, 2 ** 61 + 1), (F64, 2 ** 63),
                        (U32, 10 ** 6), (STR, 2 ** 64 - 1), (STR, 2 ** 40), (STR, 10 ** 6)):
        yield from refused(f"array of {count} items of type {kind}",
                           lambda g, k=kind, n=count: first(
            g, "x", ARRAY, Raw(struct.pack("<IQ", k, n))), "key x", count)
    yield from refused("a key twice", lambda g: first(g, "llama.block_count", U32, 2),
                       "llama.block_count", "twice")
    yield from refused("two names that break the line", lambda g: (
        first(g, "a\n\x1b[31mb", U8, 1), first(g, "a\n\x1b[31mb", U8, 1)), "twice")
    yield accepted("keys nobody knows", lambda g: (
        first(g, "x.y", ARRAY, (STR, ["a", ""])), g.set("z", F64,
                                                        1.5), g.set("none", ARRAY, (U8, []))))
    yield accepted("keys in another order", lambda g: g.keys.reverse())
    yield accepted("numbers as u64 and i64", lambda g: (
        g.set("llama.block_count", U64, 2), g.set("llama.embedding_length", I64, DIM)))
    for align in 0, 1, 2, 3, 48, 2 ** 17, 2 ** 31:
        yield from refused(f"alignment {align}",
                           lambda g, n=align: g.set("general.alignment", U32, n),
                           "general.alignment", align)
    yield from refused("alignment as u64", lambda g: g.set("general.alignment", U64, 32),
                       "alignment")
    yield from refused("alignment as text", lambda g: g.set("general.alignment", STR, "32"),
                       "alignment")
    yield accepted("alignment 64", lambda g: g.set("general.alignment", U32, 64), checksums="none")


def hyperparameters():
    limits = {"embedding_length": 65536, "feed_forward_length": 1 << 20, "block_count": 1024,
              "attention.head_count": 1024, "attention.head_count_kv": 1024, "vocab_size": 1 << 20,
              "context_length": 1 << 24, "attention.key_length": 1024,
              "attention.value_length": 2, "rope.dimension_count": 2}
    for key, limit in limits.items():
        key = "llama." + key
        for kind, value in ((U32, 0), (I32, -1), (I32, -2 ** 31), (U32, limit + 1),
                            (U32, 2 ** 32 - 1),
                            (U64, 2 ** 32 + 2), (U64, 2 ** 63 - 1), (I64, -2 ** 63)):
            yield from refused(f"{key} {value}", lambda g, args=(key, kind, value): g.set(*args),
                               key, value, converts=False)
        yield from refused(f"{key} 2^64 - 1", lambda g, key=key: g.set(key, U64, 2 ** 64 - 1), key)
        for kind, value in (STR, "2"), (F32, 2.0), (BOOL, True), (ARRAY, (U32, [2, 2])):
            yield from refused(f"{key} of type {kind}",
                               lambda g, args=(key, kind, value): g.set(*args), key,
                               "whole number", converts=False)
    for key in ("embedding_length", "feed_forward_length", "block_count", "attention.head_count",
                "context_length", "attention.layer_norm_rms_epsilon"):
        yield from refused(f"no {key}", lambda g, key=key: g.drop("llama." + key), "llama." + key,
                           "missing")
    for key, value, word in (("embedding_length", 33, "token_embd.weight"),
                             ("embedding_length", 64, "token_embd.weight"),
                             ("feed_forward_length", 5, "ffn_gate"), ("block_count", 1, "blk.1."),
                             ("block_count", 3, "blk.2."), ("block_count", 1024, "blk.2."),
                             ("attention.head_count", 3, "attn_q"),
                             ("attention.head_count_kv", 2, "attn_k"),
                             ("vocab_size", 33, "token_embd"),
                             ("vocab_size", 31, "31"), ("vocab_size", 1 << 20, "token_embd")):
        yield from refused(f"{key} {value}, tensors unchanged",
                           lambda g, args=("llama." + key, U32, value): g.set(*args), word)
    yield from refused("3 heads, 2 key heads", lambda g: (
        g.set("llama.attention.head_count", U32, 3),
        g.set("llama.attention.head_count_kv", U32, 2)),
        "3 heads", "2 key/value heads")
    yield from refused("2 heads, 4 key heads",
                       lambda g: g.set("llama.attention.head_count_kv", U32, 4), "4", "1 to 2")
    yield from refused("head dimension 3", lambda g: [
        g.set(f"llama.{key}", U32, 3) for key in ("attention.key_length", "attention.value_length",
                                                  "rope.dimension_count")], "3", "even")
    for key in "rope.freq_base", "attention.layer_norm_rms_epsilon":
        for value in 0.0, -1.0, math.nan, math.inf, -math.inf:
            yield from refused(f"{key} {value}",
                               lambda g, k="llama." + key, v=value: g.set(k, F32, v),
                               "llama." + key, "above 0")
        yield from refused(f"{key} as u32", lambda g, k="llama." + key: g.set(k, U32, 1), "f32")
    for name, kind, value, word in (
            ("general.architecture", STR, "gpt2", "gpt2"),
            ("general.architecture", STR, "", "llama"),
            ("general.architecture", STR, "llama\0", "llama"),
            ("general.architecture", U32, 1, "string"),
            ("general.architecture", ARRAY, (STR, ["llama"]), "string"),
            ("llama.rope.scaling.type", STR, "linear", "linear"),
            ("llama.rope.scaling.type", STR, "yarn", "yarn"),
            ("llama.rope.scaling.factor", F32, 2.0, "rope scaling by 2"),
            ("llama.rope.scale_linear", F32, 2.0, "rope scaling by 2"),
            ("llama.expert_count", U32, 8, "8")):
        yield from refused(f"{name} {value!r}", lambda g, args=(name, kind, value): g.set(*args),
                           word)
    yield from refused("no architecture", lambda g: g.drop("general.architecture"), "missing")
    yield accepted("rope scaling none, no experts", lambda g: (
        g.set("llama.rope.scaling.type", STR, "none"), g.set("llama.expert_count", U32, 0)))
    yield accepted("rope scaling by 1", lambda g: (
        g.set("llama.rope.scaling.factor", F32, 1.0), g.set("llama.rope.scale_linear", F32, 1.0)))
    yield accepted("only what must be there", lambda g: [
        g.drop("llama." + key) for key in ("vocab_size", "rope.freq_base", "rope.dimension_count",
                                           "attention.value_length")])


def tensors():
    gate, up = "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"

    def shape(name, dims):
        return lambda g: g.tensor(name).__setitem__(1, dims)

    for dims in (0, 4), (32, 0), (2 ** 31, 4), (2 ** 63, 2), (2 ** 64 - 1, 1), (2 ** 32, 2 ** 32):
        yield from refused(f"shape {dims}", shape(gate, dims), gate, dims[0], dims[1])
    yield from refused("a shape whose bytes overflow", shape(gate, (2 ** 31 - 1, 2 ** 31 - 1)),
                       gate, 2 ** 31 - 1)
    for dims in (), (32, 4, 1), (32, 4, 1, 1), (1,) * 1000:
        yield from refused(f"{len(dims)} dimensions", shape(gate, dims), gate,
                           f"{len(dims)} dimensions")
    unknown = ((4, "q4_2"), (9, "q8_1"), (10, "q2_k"), (11, "q3_k"), (16, "iq2_xxs"), (24, "i8"),
               (28, "f64"), (34, "tq1_0"), (39, "mxfp4"), (40, "40"), (255, "255"),
               (2 ** 32 - 1, "4294967295"))
    for kind, word in unknown:
        yield from refused(f"storage type {kind}",
                           lambda g, k=kind: g.tensor(gate).__setitem__(2, k), gate, word, "q4_0")
    for kind, block in (Q8_0, 32), (12, 256), (20, 32):
        yield from refused(f"rows of 4 in storage type {kind}", lambda g, k=kind: g.store(
            "blk.0.ffn_down.weight", k, bytes(512)), "ffn_down", f"multiple of {block}")
    yield from refused("a norm in f16", lambda g: g.store(
        "output_norm.weight", F16, half([1.0] * DIM)), "output_norm.weight", "f16", "f32")
    for kind, store in (F16, half), (BF16, bfloat), (Q8_0, q8_0):
        yield accepted(f"embedding and head in storage type {kind}", lambda g, k=kind, f=store: [
            g.store(name, k, f(weights()[name][1]))
            for name in ("token_embd.weight", "output.weight")])
    for offset in (2 ** 64 - 32, 2 ** 63, 2 ** 40, 16384):
        yield from refused(f"offset {offset}", lambda g, n=offset: g.offsets.update({gate: n}),
                           gate,
                           offset)
    size = 4 * DIM * HIDDEN
    for off, word in (-size, "overlaps"), (-32, "overlaps"), (1, "alignment"), (-4, "alignment"), \
            (16, "alignment"):
        def move(g, off=off):
            at = sum(len(t[3]) for t in g.tensors[:[t[0] for t in g.tensors].index(gate)])
            g.offsets[gate] = at + off
        yield from refused(f"a tensor moved by {off} bytes", move, gate, word)
    yield from refused("two tensors at one place", lambda g: g.offsets.update(
        {"token_embd.weight": 0, "blk.0.attn_norm.weight": 0}), "attn_norm", "overlaps")
    yield from refused("entries not in the order of the data", lambda g: g.offsets.update(
        {"token_embd.weight": 4096, "blk.0.attn_norm.weight": 0}), "attn_norm", "overlaps")
    yield accepted("tensors in another order", lambda g: g.tensors.reverse())
    for name in [t[0] for t in Gguf().tensors if not t[0].startswith("blk.0.")][:-1]:
        yield from refused(f"no {name}", lambda g, name=name: g.drop(name), name, "missing")
    yield from refused("a tensor twice", lambda g: g.tensors.append(list(g.tensors[3])),
                       g_name(3), "twice")
    yield from refused("a tensor under another's name",
                       lambda g: g.tensor(up).__setitem__(0, gate), gate, "twice")
    for name in ("blk.0.attn_q.bias", "blk.2.attn_q.weight", "blk.0.ffn_gate_exps.weight",
                 "blk.0.attn_q_norm.weight", "output.bias", "rope_freqs.weight", "x"):
        yield from refused(f"a tensor {name}", lambda g, name=name: g.tensors.append(
            [name, (DIM,), T_F32, bytes(4 * DIM)]), "scaling" if "rope" in name else name)
    yield accepted("an optimizer's tensors", lambda g: g.tensors.append(
        ["opt.m.output.weight", (DIM, DIM), T_F32, bytes(4 * DIM * DIM)]))
    yield from refused("a name of 65 bytes", lambda g: g.tensors.append(
        ["n" * 65, (DIM,), T_F32, bytes(128)]), "65 bytes")
    yield from refused("a tensor without a name", lambda g: g.tensors.append(
        ["", (DIM,), T_F32, bytes(128)]), "0 bytes")
    for name in ("token_embd", "output", "blk.1.attn_q", "blk.1.attn_k", "blk.1.attn_output",
                 "blk.1.ffn_down", "output_norm"):
        name += ".weight"

        def transpose(g, name=name):
            tensor = g.tensor(name)
            tensor[1] = tensor[1][::-1] if len(set(tensor[1])) == 2 else (DIM // 2, DIM * 2) \
                if len(tensor[1]) == 2 else (1, DIM)
        yield from refused(f"{name} of another shape", transpose, name, "shape")


def g_name(place):
    return Gguf().tensors[place][0]


def checksums():
    model = Gguf().build()
    yield from refused("wrong checksum of a tensor", lambda g: g.set(
        "opencoder.crc32c", ARRAY, (U32, [1] * 21)), "token_embd.weight", "CRC32C", "00000001")
    yield from refused("20 checksums for 21 tensors", lambda g: g.set(
        "opencoder.crc32c", ARRAY, (U32, [1] * 20)), "opencoder.crc32c", "20")
    yield from refused("checksums as u64", lambda g: g.set(
        "opencoder.crc32c", ARRAY, (U64, [1] * 21)), "opencoder.crc32c", "u64")
    yield from refused("checksum of the header as text", lambda g: g.keys.append(
        ["opencoder.crc32c.header", STR, "1"]), "opencoder.crc32c.header")
    yield raw("wrong checksum of the header", Gguf(checksums="wrong").build(), "header", "CRC32C")
    yield from refused("bytes between tensors", lambda g: g.gaps.update(
        {"blk.0.attn_q.weight": bytes(32)}), "blk.0.attn_q.weight", "32 bytes follow")

    def rough(g):  # rows of 4 leave room behind a tensor of 3 rows
        g.tensors.insert(1, ["opt.m", (4, 3), T_F32, bytes(48)])
        g.gaps["opt.m"] = bytes(15) + b"\1"
    yield from refused("padding that is not zero", rough, "opt.m", "padding")
    start = len(model) - sum(len(t[3]) for t in Gguf().tensors)
    for name, broken in (
            ("two blocks swapped", model[:start] + model[start + 512:start + 1024] +
             model[start:start + 512] + model[start + 1024:]),
            ("a block zeroed", model[:start] + bytes(512) + model[start + 512:]),
            ("a block repeated", model[:start + 512] + model[start:start + 512] +
             model[start + 1024:])):
        yield raw(name, broken, "token_embd.weight", "damaged")
    sums = model.index(b"opencoder.crc32c.header")
    noise = random.Random(100)
    bits = [noise.randrange(8 * len(model)) for _ in range(100)]
    bits += [8 * (sums + i) + noise.randrange(8) for i in range(-9, 31)]
    bits += [8 * i + noise.randrange(8) for i in range(24)]
    for bit in sorted(set(bits)):
        byte = bytes([model[bit // 8] ^ 1 << bit % 8])
        yield raw(f"bit {bit % 8} of byte {bit // 8} flipped",
                  model[:bit // 8] + byte + model[bit // 8 + 1:])


def numbers():
    """Weights that are no numbers, or too large ones."""
    for value, said in (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"):
        place = A * DIM + 5
        model = Gguf().poke("token_embd.weight", place, value).build()
        files = {"m.gguf": model}
        yield reject(f"gguf: weight {value}, run", RUN + " -q", files, "m.gguf", "logit", out=b"a")
        yield reject(f"gguf: weight {value}, convert", "convert m.gguf OUT", files,
                     "m.gguf", "token_embd.weight", f"row {A}", "column 5", said)
        yield reject(f"gguf: weight {value}, --check", "convert --check m.gguf", files,
                     "m.gguf", "token_embd.weight", f"row {A}", "column 5", said)
    far = {"m.gguf": Gguf().poke("token_embd.weight", (A + 20) * DIM, math.nan).build()}
    yield accept("gguf: NaN in a row that is not used, run", RUN, far, SAYS)
    yield reject("gguf: NaN in a row that is not used, --check", "convert --check m.gguf", far,
                 f"row {A + 20}")
    huge = Gguf()
    for name in ("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"):
        huge.store(name, T_F32, struct.pack("<128f", *[1e30] * 128))
    files = {"m.gguf": huge.build()}
    yield reject("gguf: weights of 1e30, run", RUN + " -q", files, "m.gguf", "logit", out=b"a")
    yield accept("gguf: weights of 1e30, --check", "convert --check m.gguf", files)
    yield reject("gguf: weights of 1e30, convert to f16", "convert m.gguf OUT -q f16", files,
                 "m.gguf", "ffn_gate", "1e+30", "f16")
    for kind, data in ((F16, half([0.0] * 1023) + b"\x00\x7c"),
                       (BF16, bfloat([0.0] * 1023) + b"\xc0\x7f"),
                       (Q8_0, b"\x00\x7e" + q8_0([1.0] * 1024)[2:])):
        files = {"m.gguf": Gguf().store("output.weight", kind, data).build()}
        yield reject(f"gguf: not finite in storage type {kind}, run", RUN + " -q", files,
                     "logit", out=b"a")
        yield reject(f"gguf: not finite in storage type {kind}, --check", "convert --check m.gguf",
                     files, "output.weight", "finite")


def odd_types():
    """Keys of a type that they cannot have, and numbers of every type that they can."""
    for key in ("general.type", "llama.rope.scaling.type", "tokenizer.ggml.model",
                "tokenizer.ggml.pre", "tokenizer.chat_template"):
        yield from refused(f"{key} as u32", lambda g, key=key: g.set(key, U32, 1), key, "string")
    for key in "llama.rope.scaling.factor", "llama.rope.scale_linear":
        yield from refused(f"{key} as u32", lambda g, key=key: g.set(key, U32, 1), key, "f32")
    yield from refused("opencoder.whitespace_suffix as u32", lambda g: g.set(
        "opencoder.whitespace_suffix", U32, 1), "opencoder.whitespace_suffix", "bool")
    yield from refused("opencoder.stop_token_ids as u32", lambda g: g.set(
        "opencoder.stop_token_ids", U32, 1), "opencoder.stop_token_ids", "array")
    for kind in U8, I8, U16, I16, U32, I32, U64, I64:
        yield accepted(f"context as type {kind}", lambda g, k=kind: g.set(
            "llama.context_length", k, 64))
    for kind, value in (I8, -64), (I16, -64), (I32, -64), (I64, -64):
        yield from refused(f"context {value} as type {kind}", lambda g, k=kind, v=value: g.set(
            "llama.context_length", k, v), "llama.context_length", "-64")
    yield from refused("an array as context", lambda g: g.set(
        "llama.context_length", ARRAY, (U32, [64])), "llama.context_length", "type array")
    yield accepted("twelve stop tokens", lambda g: g.set(
        "opencoder.stop_token_ids", ARRAY, (U32, [A + 2, A + 2, *range(A + 3, A + 13)])), b"ab\n")
    yield from refused("big-endian, version 2", lambda g: setattr(g, "version", 2 << 24), "swapped")
    yield raw("2^20 + 1 keys", b"GGUF\3\0\0\0" + struct.pack("<QQ", 0, (1 << 20) + 1) +
              bytes(14 << 20), "1048577 keys")
    yield raw("2^20 + 1 tensors", b"GGUF\3\0\0\0" + struct.pack("<QQ", (1 << 20) + 1, 0) +
              bytes(33 << 20), "1048577 tensors")
    wide = "n" * 100
    yield from refused("a long name twice", lambda g: g.keys.extend([[wide, U8, 1]] * 2), "twice")
    yield accepted("keys behind the checksums", lambda g: g.keys.extend([
        ["opencoder.crc32c", ARRAY, (U32, [1])], ["opencoder.crc32c.header", U32, 1],
        ["general.name", STR, "x"]]), checksums="none")
    yield accepted("bos and eos by their usual places", lambda g: (
        g.drop("tokenizer.ggml.bos_token_id"), g.drop("tokenizer.ggml.eos_token_id")))
    yield accepted("no bos and no eos, and both to be added", lambda g: (
        g.drop("tokenizer.ggml.bos_token_id"), g.drop("tokenizer.ggml.eos_token_id"),
        g.item("tokenizer.ggml.token_type", 1, NORMAL),
        g.set("tokenizer.ggml.add_bos_token", BOOL, True),
        g.set("tokenizer.ggml.add_eos_token", BOOL, True)))
    for name, change in (("a damaged header", lambda g: setattr(g, "checksums", "wrong")),
                         ("no tokens", lambda g: g.drop("tokenizer.ggml.tokens")),
                         ("a key cut off", lambda g: setattr(g, "n_keys", 99))):
        g = Gguf()
        change(g)
        yield reject(f"gguf: {name}, info", "tokenizer info m.gguf", {"m.gguf": g.build()},
                     "m.gguf")
    long = [(b"%05d" % i + b"x" * 65000, 0.0, 4) for i in range(135)]
    g = Gguf((*TOKENS, *long), "none")
    g.tensors = []
    yield reject("gguf: more token bytes than a trie has room for", "tokenizer info m.gguf",
                 {"m.gguf": g.build()}, "m.gguf", "less than 16M")
    g = Gguf(checksums="none").set("tokenizer.ggml.model", STR, "t5")
    g.tensors = []
    yield accept("gguf: info of a unigram model", "tokenizer info m.gguf", {"m.gguf": g.build()},
                 lambda out: out.startswith(b"unigram, 32 tokens"))


def to_hf():
    """Vocabularies that a SentencePiece model has no room for as they are, and back."""
    files = ("added_tokens.json", "config.json", "generation_config.json", "model.safetensors",
             "special_tokens_map.json", "tokenizer.json", "tokenizer.model",
             "tokenizer_config.json")

    def there_and_back(name, change, tokens=tuple(TOKENS)):
        g = Gguf(tokens)
        change(g)
        return accept(f"gguf: {name}, to Hugging Face and back",
                      "convert m.gguf hf -o hf && convert hf OUT && run OUT -i a -n 3",
                      {"m.gguf": g.build()}, SAYS, made=["OUT", "hf", *(f"hf/{f}" for f in files)])

    types, count = "tokenizer.ggml.token_type", "opencoder.sentencepiece_count"
    yield there_and_back("all of it", lambda g: None)
    yield there_and_back("no unknown token", lambda g: g.item(types, 0, CONTROL), WITH_BYTES)
    yield there_and_back("no unknown token, and none of that name", lambda g: (
        g.item(types, 0, CONTROL), g.item("tokenizer.ggml.tokens", 0, b"<x>")), WITH_BYTES)
    g = Gguf(WITH_BYTES).item(types, 0, NORMAL).item(types, 30, NORMAL).item(types, 31, NORMAL)
    yield reject("gguf: no token that may be unknown, to Hugging Face", "convert m.gguf hf -o hf",
                 {"m.gguf": g.build()}, "tokenizer.model", "no unknown token")
    yield there_and_back("an unknown token that was added", lambda g: (
        g.set(count, U32, 31), g.set("tokenizer.ggml.unknown_token_id", U32, 31)))
    yield there_and_back("two unknown tokens", lambda g: g.item(types, 29, UNKNOWN))
    yield there_and_back("no piece called <s>", lambda g: (
        g.item("tokenizer.ggml.tokens", 1, b"<x>"), g.drop("tokenizer.ggml.bos_token_id"),
        g.set(count, U32, 32)))
    yield there_and_back("<pad> and </s> that are texts", lambda g: (
        g.item("tokenizer.ggml.tokens", 28, b"<pad>"), g.set(count, U32, 32)))


def vocabulary():
    tokens, scores, types = (f"tokenizer.ggml.{x}" for x in ("tokens", "scores", "token_type"))

    def byte_case(name, change, *words):
        return refused(name, change, *words, tokens=WITH_BYTES)

    for key in tokens, scores, types:
        yield from refused(f"no {key}", lambda g, key=key: g.drop(key), key)
        yield from refused(f"{key} is a number", lambda g, key=key: g.set(key, U32, 1), key)
        yield from refused(f"{key} as u8", lambda g, key=key: g.set(key, ARRAY, (U8, [1] * 32)),
                           key)
    for key in scores, types:
        for n in 31, 33, 0:
            yield from refused(f"{n} {key}", lambda g, key=key, n=n: g.set(
                key, ARRAY, (g.value(key)[0], [1] * n)), key, n, 32)
    yield from refused("no tokens", lambda g: g.set(tokens, ARRAY, (STR, [])), tokens, "0 tokens")
    yield from refused("31 tokens", lambda g: g.set(tokens, ARRAY, (STR, g.value(tokens)[1][:31])),
                       "31")
    yield from refused("33 tokens", lambda g: (
        g.set(tokens, ARRAY, (STR, [*g.value(tokens)[1], b"more"])),
        g.set(scores, ARRAY, (F32, [*g.value(scores)[1], 0.0])),
        g.set(types, ARRAY, (I32, [*g.value(types)[1], NORMAL]))), "33 tokens", "32")
    yield from refused("a token past the end", lambda g: g.set(tokens, ARRAY, Raw(
        struct.pack("<IQ", STR, 32) + text("a") + struct.pack("<Q", 2 ** 63))), "past the end")
    for value in math.nan, math.inf, -math.inf:
        yield from refused(f"score {value}", lambda g, v=value: g.item(scores, 7, v), "token 7",
                           "score")
    for value in 0, 7, -1, 257, 2 ** 31 - 1:
        yield from refused(f"token type {value}", lambda g, v=value: g.item(types, 7, v), "token 7",
                           value if value > 0 else "type")
    yield from refused("a token twice", lambda g: g.item(tokens, 7, b"a"), "token a", "twice")
    yield from refused("all tokens the same", lambda g: g.set(tokens, ARRAY, (STR, [b"a"] * 32)),
                       "token a", "twice")
    yield from refused("an empty token", lambda g: g.item(tokens, 7, b""), "token 7", "0 bytes")
    yield from refused("a token of 65536 bytes", lambda g: g.item(tokens, 7, b"x" * 65536),
                       "token 7",
                       "65536")
    yield from refused("a NUL in a token", lambda g: g.item(tokens, 7, b"d\0"), "token 7", "NUL")
    yield accepted("a token that is not UTF-8", lambda g: g.item(tokens, 20, b"\xff\xfe"))
    yield accepted("a token of printf's directives", lambda g: g.item(tokens, 6, b"%s%n%d%99999d"),
                   b"ab%s%n%d%99999dd\n")
    for bad in b"<0xZZ>", b"<0x-1>", b"<0x0>", b"<0x100>", b"<0xff>", b"<0x\0\0>", b"byte":
        yield from byte_case(f"byte token {bad}", lambda g, bad=bad: g.item(tokens, 40, bad),
                             "token 40")
    yield from byte_case("255 byte tokens", lambda g: g.item(types, 40, NORMAL), "255 byte tokens",
                         "256")
    yield from byte_case("a byte token twice", lambda g: g.item(tokens, 40, b"<0x09>"), "<0x09>")
    yield from refused("neither unknown nor byte tokens", lambda g: g.item(types, 0, NORMAL),
                       "no unknown token")
    for key in "bos", "eos", "unknown", "padding", "eot":
        key = f"tokenizer.ggml.{key}_token_id"
        for kind, value in (U32, 32), (U32, 2 ** 31), (U32,
                                                       2 ** 32 - 1), (I32, -2), (U64, 2 ** 63 - 1):
            yield from refused(f"{key} {value}", lambda g, args=(key, kind, value): g.set(*args),
                               key,
                               value)
        yield from refused(f"{key} as text", lambda g, key=key: g.set(key, STR, "1"), key)
    yield from refused("a stop token past the end", lambda g: g.set(
        "opencoder.stop_token_ids", ARRAY, (U32, [1, 32])), "opencoder.stop_token_ids", "32")
    yield accepted("a letter as stop token", lambda g: g.set(
        "opencoder.stop_token_ids", ARRAY, (U32, [A + 2])), b"ab\n")
    for model in "gpt2", "bert", "", "LLAMA":
        yield from refused(f"tokenizer model {model!r}", lambda g, m=model: g.set(
            "tokenizer.ggml.model", STR, m), "tokenizer.ggml.model", "expected llama or t5")
    yield from refused("no tokenizer model", lambda g: g.drop("tokenizer.ggml.model"),
                       "tokenizer.ggml.model", "missing")
    for key in "add_bos_token", "add_eos_token", "add_space_prefix", "remove_extra_whitespaces":
        key = "tokenizer.ggml." + key
        yield from refused(f"{key} 2", lambda g, key=key: g.set(key, BOOL, Raw(b"\2")), key, "bool")
        yield from refused(f"{key} as u32", lambda g, key=key: g.set(key, U32, 1), key, "bool")
    yield from refused("33 pieces of SentencePiece", lambda g: g.set(
        "opencoder.sentencepiece_count", U32, 33), "opencoder.sentencepiece_count", "33")
    noise = list(random.Random(5).randbytes(1024))
    for name, charsmap in (("1 byte", [1]), ("3 bytes", [1, 2, 3]),
                           ("a size past its end", [255] * 8),
                           ("a size of 2^32 - 4", [252, 255, 255, 255, 1, 2, 3, 4]),
                           ("a table of 5 bytes", [5, 0, 0, 0] + [1] * 8),
                           ("no table", [0, 0, 0, 0, 120, 0]), ("no texts", [0, 4, 0, 0] + noise),
                           ("a text without end", [0, 4, 0, 0] + noise + [0, 120])):
        for model in "llama", "t5":
            yield from refused(f"{model}, charsmap of {name}", lambda g, c=charsmap, m=model: (
                g.set("tokenizer.ggml.model", STR, m),
                g.set("tokenizer.ggml.precompiled_charsmap", ARRAY, (U8, c))), "charsmap")
    yield accepted("charsmap of noise", lambda g: g.set(
        "tokenizer.ggml.precompiled_charsmap", ARRAY, (U8, [0, 4, 0, 0] + noise + [120, 0])),
        says=None)
    yield from refused("charsmap as text", lambda g: g.set(
        "tokenizer.ggml.precompiled_charsmap", STR, "x"), "charsmap")


def adapters():
    """Adapters: cut off anywhere, and with any byte changed, which need not matter."""
    rows, cols = weights()["output.weight"][0]
    g = adapter({"output.weight": (rows, cols), "blk.1.attn_q.weight": (4, cols)}, 2)
    whole, model = g.build(), Gguf().build()

    def survives(directory, command):
        done = start(command, directory)
        if os.path.exists(os.path.join(directory, "OUT")):
            os.remove(os.path.join(directory, "OUT"))
        return broken(done) or (None if done.returncode in (0, 1) else short(done.stderr))

    for command in "run m.gguf -q -i a -n 2 --lora a.gguf", "convert m.gguf OUT --lora a.gguf":
        title = f"adapter: {command.split()[0]}, "
        yield accept(title + "control", command, {"m.gguf": model, "a.gguf": whole},
                     made=["OUT"] if "OUT" in command else [])
        for name, end in g.marks[:-1]:
            yield reject(title + f"cut off behind {name}", command,
                         {"m.gguf": model, "a.gguf": whole[:end]}, "a.gguf")
        g.checksums, noise = "none", random.Random(9)
        bare = g.build()
        for i in range(40):
            at = noise.randrange(g.marks[-5][1]) if i % 4 else noise.randrange(len(bare))
            content = bare[:at] + bytes([noise.randrange(256)]) + bare[at + 1:]
            yield act(title + f"byte {at} changed ({i})", functools.partial(
                survives, command=command), {"m.gguf": model, "a.gguf": content})
        g.checksums = "right"
        g.build()


def cases():
    for group in (whole_files, header, key_syntax, hyperparameters, odd_types, to_hf, tensors,
                  checksums, numbers, vocabulary, adapters):
        yield from group()
