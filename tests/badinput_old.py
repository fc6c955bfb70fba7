"""badinput_old.py: SentencePiece models, and llama2.c's models and tokenizers."""

import math
import random
import struct

from badinput_case import accept, reject
from badinput_files import (BYTE, BYTES, CONTROL, DIM, LFS, NORMAL, OLD_TOKENS, TOKENS, UNKNOWN,
                            Gguf, field, hf_directory, llama2c, old_tokenizer, piece, safetensors,
                            sentencepiece, varint)

CONVERT = "convert m.bin OUT --tokenizer tok"
RUN = "run OUT -i a -n 3"


# ---------------------------------------------------------------------------------- SentencePiece
def pieces():
    def wrong(name, content, *words):
        return reject(f"sentencepiece: {name}", "convert hf OUT",
                      hf_directory(tokenizer__model=content), "tokenizer.model", *words)

    def right(name, content, says=b"abcd\n"):
        return accept(f"sentencepiece: {name}", f"convert hf OUT && {RUN}",
                      hf_directory(tokenizer__model=content), says, made=["OUT"])

    def changed(place, name=None, score=None, kind=None):
        old = TOKENS[place]
        new = (old[0] if name is None else name, old[1] if score is None else score,
               old[2] if kind is None else kind)
        return sentencepiece((*TOKENS[:place], new, *TOKENS[place + 1:]))

    whole = sentencepiece()
    yield right("control", whole)
    yield right("fields nobody knows", whole + field(100, 5) + field(101, b"x") + field(102, 1.0) +
                varint(103 << 3 | 1) + bytes(8))
    yield right("specs before pieces", field(3, field(3, 0) + field(4, 0)) + whole)
    yield right("unigram", sentencepiece(trainer={3: 1}))
    yield right("an empty denormalizer", whole + field(5, b"") + field(5, field(1, b"x")))
    for spec, number in ("trainer_spec", 2), ("normalizer_spec", 3), ("denormalizer_spec", 5):
        yield wrong(f"{spec} cut off", whole + field(number, b"\x12\x7f"), spec, "past the end")
    yield wrong("a charsmap as a number", sentencepiece(normalizer={2: 5}), "charsmap", "wire type")
    yield wrong("a denormalizer's charsmap as a number", whole + field(5, field(2, 5)),
                "denormalizer_spec", "wire type")
    yield wrong("2^20 + 1 pieces", (field(1, b"") * ((1 << 20) + 1)), "1048576")
    for name, content in (("empty", b""), ("LFS pointer", LFS),
                          ("a tokenizer.json", b'{"model": {}}'),
                          ("64 KB of zeros", bytes(65536)), ("bytes 0xFF", b"\xff" * 1000),
                          ("64 KB of noise", random.Random(4).randbytes(65536)),
                          ("a GGUF file", Gguf().build()), ("text", b"hello\n")):
        yield wrong(name, content)
    for at in 1, 2, 3, 5, 10, 100, len(whole) - 20, len(whole) - 1:
        yield wrong(f"cut off at {at}", whole[:at])
    yield wrong("cut off behind a piece", b"".join(piece(*token) for token in TOKENS[:20]))
    yield wrong("pieces without trainer_spec", b"".join(piece(*token) for token in TOKENS))
    yield wrong("no pieces", sentencepiece(()), "pieces")
    long = b"\xff" * 9 + b"\1"  # 2^64 - 1
    for name, content in (
            ("a length of 2^64 - 1", b"\x0a" + long),
            ("a length of 2^63", b"\x0a" + b"\x80" * 9 + b"\1"),
            ("a length of 2^31", b"\x0a" + varint(2 ** 31)),
            ("a varint of 11 bytes", b"\x0a" + b"\x80" * 10 + b"\1"),
            ("a varint without end", b"\x0a" + b"\x80" * 5), ("a tag without end", b"\x80" * 20),
            ("field 0", b"\0\0"), ("field 2^29", varint(2 ** 32) + b"\0"),
            ("wire type 3", varint(9 << 3 | 3)),
            ("wire type 4", varint(9 << 3 | 4)), ("wire type 6", varint(9 << 3 | 6)),
            ("wire type 7", varint(9 << 3 | 7)), ("4 bytes cut", varint(9 << 3 | 5) + b"xx"),
            ("8 bytes cut", varint(9 << 3 | 1) + b"xxxx"), ("pieces as a number", field(1, 5)),
            ("trainer_spec as a number", field(2, 5)), ("normalizer_spec as a number", field(3, 5)),
            ("a piece's text as a number", field(1, field(1, 5))),
            ("a piece's score as a number", field(1, field(1, b"x") + field(2, 5))),
            ("a piece's type as text", field(1, field(1, b"x") + field(3, b"x"))),
            ("a piece past its end", field(1, b"\x0a\x7fx")),
            ("a piece of garbage", field(1, b"\xff\xff\xff"))):
        yield wrong(name, whole + content)
        yield wrong(name + ", alone", content)
    yield wrong("model_type as text", sentencepiece(trainer={3: b"2"}), "model_type", "wire type")
    yield wrong("no piece's text", whole + field(1, field(2, 1.0)))
    for kind, name in (3, "WORD"), (4, "CHAR"), (0, "0"), (5, "unknown"), (2 ** 63, "unknown"):
        yield wrong(f"model type {kind}", sentencepiece(trainer={3: kind}), "model_type", name)
    yield wrong("escape_whitespaces false", sentencepiece(normalizer={5: 0}), "escape_whitespaces")
    yield wrong("denormalizer", sentencepiece(more=field(5, field(2, b"x" * 10))),
                "denormalizer_spec", "10")
    yield wrong("no unknown piece", changed(0, kind=NORMAL), "unknown", "0 of type")
    yield wrong("two unknown pieces", changed(7, kind=UNKNOWN), "unknown", "2 of type")
    yield wrong("a piece twice", changed(7, name=b"a"), "a", "twice")
    yield wrong("an empty piece", changed(7, name=b""), "token 7", "0 bytes")
    yield wrong("a NUL in a piece", changed(7, name=b"x\0y"), "token 7", "NUL")
    yield wrong("a piece of 65536 bytes", changed(7, name=b"x" * 65536), "token 7", "65536")
    for score in math.nan, math.inf, -math.inf:
        yield wrong(f"score {score}", changed(7, score=score), "token 7", "score")
    for kind in 0, 7, 2 ** 40:
        yield wrong(f"piece type {kind}", changed(7, kind=kind), "piece 7", kind)
    yield wrong("byte_fallback without bytes", sentencepiece(trainer={35: 1}), "byte_fallback",
                "256")
    yield wrong("byte pieces without byte_fallback",
                sentencepiece((*TOKENS, *BYTES), trainer={35: 0}),
                "byte_fallback")
    yield wrong("255 byte pieces", sentencepiece((*TOKENS, *BYTES[:255])), "255")
    yield wrong("a byte piece <0xZZ>", sentencepiece((*TOKENS, *BYTES[1:], (b"<0xZZ>", 0.0, BYTE))),
                "<0xZZ>")
    yield wrong("33 pieces for 32 rows", sentencepiece((*TOKENS, (b"x y", 0.0, NORMAL))), "33",
                "32")
    yield wrong("charsmap of 3 bytes", sentencepiece(normalizer={2: b"abc"}), "charsmap")
    yield wrong("charsmap past its end", sentencepiece(normalizer={2: b"\xff" * 12}), "charsmap")


# --------------------------------------------------------------------------------------- llama2.c
def models():
    def files(model, tokens=None):
        return {"m.bin": model, "tok": old_tokenizer() if tokens is None else tokens}

    def wrong(name, model, *words):
        return reject(f"llama2.c: {name}", CONVERT, files(model), "m.bin", *words)

    def right(name, model, tokens=None):
        return accept(f"llama2.c: {name}", f"{CONVERT} && {RUN}", files(model, tokens), b"abcd\n",
                      made=["OUT"])

    made = {version: llama2c(version) for version in (0, 1, 2)}
    for version, model in made.items():
        yield right(f"control, version {version}", model)
        ends = [1, 3, 4, 7, 8, 27, 28, 36, 40, 255, 256, 257, len(model) // 2, len(model) - 4,
                len(model) - 1]
        for at in ends:
            yield wrong(f"version {version} cut off at {at}", model[:at])
        yield wrong(f"version {version}, 4 KB more", model + bytes(4096), len(model) + 4096,
                    len(model))
        yield wrong(f"version {version}, 1 byte more", model + b"\0", len(model) + 1)
        for key, values in (("dim", (0, -1, -32, 33, 64, 2 ** 31 - 1, 65536, 46341)),
                            ("hidden", (0, -64, 5, 2 ** 31 - 1)),
                            ("layers", (0, -1, 1, 3, 2 ** 31 - 1, 2 ** 30)),
                            ("heads", (0, -4, 3, 64, 32, 2 ** 31 - 1)),
                            ("kv_heads", (0, -2, 3, 8, 2 ** 31 - 1)),
                            ("vocab", (0, -2 ** 31, 512, -512, 2 ** 31 - 1, 65536)),
                            ("context", (0, -1, 2 ** 31 - 1, 2 ** 30))):
            for value in values:
                yield wrong(f"version {version}, {key} {value}", llama2c(version, **{key: value}))
    yield wrong("version 0, context 65", llama2c(context=65))
    for name, header in (("dim and vocabulary 65536", {"dim": 65536, "vocab": 65536}),
                         ("dim and vocabulary 46341", {"dim": 46341, "vocab": 46341}),
                         ("layers, context and dim 2^30",
                          {"layers": 2 ** 30, "context": 2 ** 30, "dim": 2 ** 30}),
                         ("a cache that wraps",
                          {"layers": 1024, "context": 2 ** 22, "kv_heads": 1}),
                         ("the largest of everything",
                          {"dim": 65536, "hidden": 1 << 20, "layers": 1024,
                                                        "heads": 1024, "kv_heads": 1024,
                                                        "vocab": 1 << 20,
                                                        "context": 1 << 24})):
        for version in made:
            yield wrong(f"version {version}, {name}", llama2c(version, **header))
    for name, content in (("empty", b""), ("1 byte", b" "), ("all bytes 0xFF", b"\xff" * 4096),
                          ("64 KB of zeros", bytes(65536)),
                          ("64 KB of noise", random.Random(6).randbytes(65536)),
                          ("a text file", b"def fib(n):\n    return n\n" * 20),
                          ("big-endian", struct.pack(">7i", 32, 4, 2, 2, 1, 286,
                                                     64) + made[0][28:]),
                          ("big-endian, version 1", b"ak42" + made[1][4:]), ("LFS pointer", LFS),
                          ("a tokenizer", old_tokenizer()), ("a SentencePiece model",
                                                             sentencepiece())):
        yield wrong(name, content)
    yield reject("llama2.c: a safetensors file", CONVERT, files(safetensors()), "m.bin",
                 "safetensors")
    for version in 0, 3, -1, 2 ** 31 - 1:
        yield wrong(f"says version {version}", llama2c(1, said=version), "version", version)
    for version in 1, 2:
        for shared in 1, 2, 255:
            yield wrong(f"version {version}, shared {shared}", llama2c(version, shared=shared))
        yield wrong(f"version {version}, header not zero behind", made[version][:100] + b"\1" +
                    made[version][101:], "byte 100")
    for group in 0, -32, 5, 16, 64, 2 ** 31 - 1:
        yield wrong(f"group size {group}", llama2c(2, group=group))
    yield wrong("odd heads of 3 numbers", llama2c(dim=12, heads=4), "3")
    emb = 28 + 4 * (260 * DIM + 5)
    for value, said in (math.nan, "nan"), (math.inf, "inf"):
        yield wrong(f"weight {value}", made[0][:emb] + struct.pack("<f", value) + made[0][emb + 4:],
                    "token_embd", "row 260", said)
    factor = 256 + 4 * 160 + len(OLD_TOKENS) * DIM  # of the embedding's first group
    yield wrong("a factor NaN", made[2][:factor] + b"\0\0\xc0\x7f" + made[2][factor + 4:],
                "token_embd",
                "row 0")
    yield reject("llama2.c: no --tokenizer", "convert m.bin OUT", files(made[0]), "m.bin",
                 "--tokenizer")
    yield reject("llama2.c: tokenizer missing", "convert m.bin OUT --tokenizer no", files(made[0]),
                 "no")
    yield reject("llama2.c: tokenizer a directory", "convert m.bin OUT --tokenizer .",
                 files(made[0]),
                 "not a regular file")
    yield reject("llama2.c: --tokenizer with GGUF", "convert m.gguf OUT --tokenizer tok",
                 {"m.gguf": Gguf().build(), "tok": old_tokenizer()}, "--tokenizer")


def tokenizers():
    def wrong(name, tokens, *words, model=None):
        return reject(f"llama2.c tokenizer: {name}", CONVERT,
                      {"m.bin": llama2c() if model is None else model,
                       "tok": tokens}, "tok", *words)

    def right(name, tokens):
        return accept(f"llama2.c tokenizer: {name}", f"{CONVERT} && {RUN}",
                      {"m.bin": llama2c(), "tok": tokens}, b"abcd\n", made=["OUT"])

    def changed(place, *token):
        return [*OLD_TOKENS[:place], token, *OLD_TOKENS[place + 1:]]

    whole = old_tokenizer()
    yield right("control", whole)
    yield right("a longest token of 100", old_tokenizer(longest=100))
    for name, content in (("empty", b""), ("3 bytes", b"abc"), ("only the longest", whole[:4]),
                          ("cut within a token", whole[:-1]), ("cut before a token", whole[:-9]),
                          ("100 bytes more", whole + bytes(100)), ("64 KB of zeros", bytes(65536)),
                          ("64 KB of noise", random.Random(7).randbytes(65536)),
                          ("LFS pointer", LFS),
                          ("a model", llama2c()), ("a GGUF file", Gguf().build()),
                          ("a safetensors file", safetensors())):
        yield wrong(name, content)
    yield wrong("one token less", old_tokenizer(OLD_TOKENS[:-1]), len(OLD_TOKENS))
    yield wrong("one token more", old_tokenizer([*OLD_TOKENS, (b"more", 0.0)]), "another model")
    for length in 0, -1, -2, -2 ** 31, 2 ** 31 - 1, 2 ** 30, 7:
        yield wrong(f"a token of length {length}", old_tokenizer(changed(270, b"k", 0.0, length)),
                    "token 270",
                    length)
    for longest in 0, 1, 5, 2 ** 31 - 1, 2 ** 32 - 1:
        yield wrong(f"longest token {longest}", old_tokenizer(longest=longest))
    for score in math.nan, math.inf, -math.inf:
        yield wrong(f"score {score}", old_tokenizer(changed(270, b"k", score)), "token 270",
                    "score")
        yield wrong(f"all scores {score}", old_tokenizer([(t, score) for t, _ in OLD_TOKENS]),
                    "score")
    yield wrong("no space", old_tokenizer(changed(259, b"!", 0.0)), "space")
    yield wrong("all tokens the same", old_tokenizer([(b"a", 0.0)] * len(OLD_TOKENS)))
    yield wrong("a token twice", old_tokenizer(changed(270, b"a", 0.0)), "token a", "twice")
    yield wrong("a NUL in a token", old_tokenizer(changed(270, b"k\0", 0.0)), "token 270", "NUL")
    for name in b"<0xZZ>", b"<0x-1>", b"<0x06>", b"xxxxxx":
        yield wrong(f"byte token {name}", old_tokenizer(changed(10, name, 0.0)), "token 10",
                    "<0x07>")
    yield wrong("a token of 1 MB, longest 8", old_tokenizer(changed(270, b"k" * 2 ** 20, 0.0), 8),
                "token 270")
    yield wrong("a token of 200 bytes, longest 8", old_tokenizer(changed(270, b"k" * 200, 0.0), 8),
                "token 270",
                200)
    few = llama2c(vocab=-100)[:28] + llama2c()[28:28 + 4 * 100 * DIM] + \
        llama2c()[28 + 4 * len(OLD_TOKENS) * DIM:-4 * len(OLD_TOKENS) * DIM] + \
        bytes(4 * 100 * DIM)
    yield wrong("100 tokens, too few for bytes", old_tokenizer(OLD_TOKENS[:100]), "100 tokens",
                model=few)
    yield right("spaces and letters in one token", old_tokenizer(changed(280, b"k l m", 0.0)))
    for token in b"<0x\0A>", b"<0x4\0>":
        yield wrong(f"byte token {token}", old_tokenizer(changed(10, token, 0.0)), "token 10")
    yield right("a token that is not UTF-8", old_tokenizer(changed(280, b"\xff\xfe", 0.0)))
    yield right("a token of printf's directives", old_tokenizer(changed(280, b"%s%n%99999d", 0.0)))
    sp = [(b"<unk>", 0.0, UNKNOWN), (b"<s>", 0.0, CONTROL), (b"</s>", 0.0, CONTROL), *BYTES] + \
        [("\u2581".encode() if t == b" " else t, s, NORMAL) for t, s in OLD_TOKENS[259:]]
    yield right("a SentencePiece model", sentencepiece(tuple(sp)))
    yield wrong("a SentencePiece model of another size",
                sentencepiece((*sp, (b"more", 0.0, NORMAL))),
                str(len(OLD_TOKENS)))
    yield wrong("a SentencePiece model cut off", sentencepiece(tuple(sp))[:-30])


def cases():
    for group in pieces, models, tokenizers:
        yield from group()
