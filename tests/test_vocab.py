#!/usr/bin/env python3
"""test_vocab.py: `tokenizer train`. The pieces are those of a plain BPE written out below; the
layout is OpenCoder's; files, directories and JSON Lines give the same vocabulary, for any number of
threads; what cannot be used is counted and left out."""

import collections
import glob
import json
import os
import random
import shutil
import struct

from check import (ROOT, SCRATCH, check, check_equal, end, program, short, start,
                   write_file)
from show_gguf import Gguf

PLACE = os.path.join(SCRATCH, "vocab")
OUT, MODEL = os.path.join(PLACE, "out.gguf"), os.path.join(PLACE, "out.model")
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
ADDED = ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]
SOURCES = sorted(glob.glob(os.path.join(ROOT, "*.[ch]")) +
                 glob.glob(os.path.join(ROOT, "export", "*.c")))


def place(name, content):
    return write_file(os.path.join(PLACE, name), content)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def train(*words, out=OUT):
    """The vocabulary as bytes, None after a failure."""
    done = start(program("tokenizer"), "train", "-o", out, *words)
    if done.returncode:
        check(f"train {short(words)}", False, short(done.stderr))
        return None
    with open(out, "rb") as file:
        return file.read()


def refused(name, code, mentions, *words):
    done = start(program("tokenizer"), "train", *words)
    last = done.stderr.decode().splitlines()[-1:] or [""]
    check(name, done.returncode == code and last[0].startswith("error: ") and
          all(word in last[0] for word in mentions), f"exit code {done.returncode}, {short(last)}, "
          f"expected {code} and {mentions}")


def learn(words, n, most=16):
    """Byte pair encoding as it is defined: pieces from {word: count}."""
    rows = {word: list(word) for word in words}
    pieces, rank = [], {}
    while len(pieces) < n:
        pairs = collections.Counter()
        for word, row in rows.items():
            for a, b in zip(row, row[1:]):
                pairs[a + b] += words[word] * (len(a + b) <= most)
        best = min(pairs, key=lambda text: (-pairs[text], len(text), text.encode()), default=None)
        if best is None or pairs[best] < 2:
            break
        rank[best] = len(pieces)
        pieces.append(best)
        for row in rows.values():
            while True:
                joins = [(rank[a + b], i) for i, (a, b) in enumerate(zip(row, row[1:]))
                         if a + b in rank]
                if not joins:
                    break
                i = min(joins)[1]
                row[i:i + 2] = [row[i] + row[i + 1]]
    return pieces


def test_against_definition():
    source = random.Random(7)
    for letters, longest, n, most in ("abc", 12, 60, 16), ("abcdefgh\u03bb", 7, 120, 5), \
            ("a", 40, 6, 16):
        text = "".join(" " + "".join(source.choices(letters, k=source.randint(1, longest)))
                       for _ in range(700))
        words = collections.Counter("\u2581" + word for word in text.split())
        path = place("random.txt", text)
        chars = len(set(text))
        want = learn(words, n, most)
        if train(path, "--vocab", 260 + len(want) + chars + 3, "--coverage", 1, "--max-piece",
                 most):
            tokens = Gguf(OUT).keys["tokenizer.ggml.tokens"]
            check_equal(f"pieces from words of {letters}", tokens[260:260 + len(want)], want)


def spm_pieces(data):
    """[(text, score, type)] of a tokenizer.model, which begins with its pieces."""
    pieces, at = [], 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            at, byte = at + 1, data[at]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while data[at] == 0x0a:
        at += 1
        stop = varint() + at
        at += 1  # the tag of the text
        size = varint()
        text, at = data[at:at + size].decode(), at + size + 1
        (score,) = struct.unpack_from("<f", data, at)
        at += 4
        kind = data[at + 1] if at < stop else NORMAL
        pieces.append((text, score, kind))
        at = stop
    return pieces


def test_layout(gguf):
    keys = gguf.keys
    tokens, scores, types = (keys["tokenizer.ggml." + name]
                             for name in ("tokens", "scores", "token_type"))
    n_pieces = keys["opencoder.sentencepiece_count"]
    check_equal("as many tokens as asked for", (len(tokens), n_pieces), (1500, 1496))
    check_equal("the fixed tokens", (tokens[:4], types[:4]),
                (["<unk>", "<s>", "</s>", "<pad>"], [UNKNOWN] + [CONTROL] * 3))
    check_equal("the byte tokens", (tokens[4:260], types[4:260]),
                ([f"<0x{i:02X}>" for i in range(256)], [BYTE] * 256))
    check_equal("the added tokens", (tokens[n_pieces:], types[n_pieces:]),
                (["<|extra|>", *ADDED], [CONTROL] * 4))
    check_equal("scores fall by one", scores[260:n_pieces], [-i for i in range(n_pieces - 260)])
    ids = [keys[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "unknown", "padding")]
    check_equal("the named ids", ids, [1499, 1498, 0, 3])
    check_equal("the flags", [keys[f"tokenizer.ggml.{name}"] for name in (
        "model", "pre", "add_bos_token", "add_space_prefix", "remove_extra_whitespaces")],
        ["llama", "opencoder", False, False, False])
    check("the chat template", "created by OpenCoder Team.<|im_end|>" in
          keys["tokenizer.chat_template"])
    pieces = tokens[260:n_pieces]
    first = next(i for i, text in enumerate(pieces) if len(text) == 1)
    check("pieces come before characters", first > 900 and
          all(len(text) == 1 for text in pieces[first:]))
    count = collections.Counter("".join(read(path) for path in SOURCES).replace(" ", "\u2581"))
    check_equal("characters, the most frequent first", pieces[first:],
                sorted(count, key=lambda c: (-count[c], c))[:len(pieces) - first])
    covered = [sum(count[c] for c in pieces[first:stop]) / sum(count.values())
               for stop in (len(pieces), len(pieces) - 1)]
    check("as many as make up the coverage", covered[0] >= 0.9995 > covered[1], covered)
    known, wrong = set(pieces[first:]), []
    for text in pieces[:first]:
        if len(text) > 16 or not any(text[:i] in known and text[i:] in known
                                     for i in range(1, len(text))):
            wrong.append(text)
        known.add(text)
    check_equal("each piece joins two that were there", wrong, [])
    with open(MODEL, "rb") as file:
        check_equal("the SentencePiece file holds the same", spm_pieces(file.read()),
                    list(zip(tokens, scores, types))[:n_pieces])


def test_round_trip():
    text = "int f(void) {\n\treturn 'x' + 12345;  }\r\n\n  \u00e9\u4e16 \U0001f600 <|im_end|>"
    ids = start(program("tokenizer"), "encode", OUT, "-i", "-", "--no-special",
                stdin=text.encode()).stdout
    back = start(program("tokenizer"), "decode", OUT, stdin=ids).stdout
    check_equal("text to ids and back", back.decode(errors="replace"), text)
    check("common words are one token", start(program("tokenizer"), "encode", OUT, "-i", " return")
          .stdout.count(b" ") == 0)
    done = start(program("tokenizer"), "encode", OUT, "-i", "<|im_start|>\u00e9<|im_end|>")
    check_equal("added tokens, and a character in bytes", done.stdout,
                b"1499 %d %d 1498\n" % (4 + 0xC3, 4 + 0xA9))


def test_sources():
    """The tree's own sources, with every option."""
    words = [*SOURCES, "--vocab", 1500, "--special", "<|extra|>", "--model", MODEL]
    one = train(*words, "-j", 1)
    if one is None:
        return
    for threads in (2, 3):
        check_equal(f"the same from {threads} threads", train(*words, "-j", threads) == one, True)
    test_layout(Gguf(OUT))
    test_round_trip()


def test_inputs():
    """The same words from a file, a directory and JSON Lines."""
    code = read(os.path.join(ROOT, "run.c"))
    parts = code.split("\n}\n\n")
    parts = [part + "\n}\n\n" for part in parts[:-1]] + parts[-1:]
    lines = "".join(json.dumps({"content": part, "text": "no"}) + "\n\n" for part in parts)
    other = "".join(json.dumps({"x": [1], "code": part}) + "\r\n" for part in parts)
    whole = train(place("whole/run.c", code), "--vocab", 700)
    for i, part in enumerate(parts):
        place(f"parts/{i % 3}/{i}.c", part)
    check("a directory", train(os.path.join(PLACE, "parts"), "--vocab", 700) == whole)
    check("JSON Lines", train(place("a.jsonl", lines), "--vocab", 700) == whole)
    check("--field", train(place("b.jsonl", other), "--vocab", 700, "--field", "code") == whole)
    twice = train(*[os.path.join(PLACE, "whole")] * 2, "--vocab", 700)
    check("the same text twice", twice == whole)
    big = (code + "\n") * 60  # a file that threads share in stretches
    check("a long file", train(place("big/a.txt", big), "--vocab", 700) ==
          train(*[place(f"big{i}/a.txt", (code + "\n") * 20) for i in range(3)], "--vocab", 700))
    place("bad/a.jsonl", lines + '{"content": 5}\n[]\n{"content": "a\\u0000"}\n{"co\n"\xff"\n')
    place("bad/b/latin1.txt", b"caf\xe9 " * 9)
    place("bad/b/nul.txt", b"a\0b" * 99)
    place("bad/b/empty.txt", b"")
    os.symlink(os.path.join(PLACE, "bad"), os.path.join(PLACE, "bad", "loop"))
    done = start(program("tokenizer"), "train", os.path.join(PLACE, "bad"), "nowhere", "-o", OUT,
                 "--vocab", 700)
    with open(OUT, "rb") as file:
        check("bad files change nothing", done.returncode == 0 and file.read() == whole,
              short(done.stderr))
    error = done.stderr.decode()
    check("they are counted", "left out: 9 that cannot be used, 1 empty files\n" in error,
          short(error))
    check("and five of them named", error.count("skipped: ") == 5 and
          f"a.jsonl:{2 * len(parts) + 1}: key content: a number" in error, short(error))


def test_errors():
    text = place("whole/run.c", "int main(void) { return 0; }\n" * 20)
    refused("no text", 2, ["no text"], "-o", OUT, "--vocab", 300)
    refused("no output", 2, ["-o"], text, "--vocab", 300)
    refused("no size", 2, ["--vocab"], text, "-o", OUT)
    refused("output is input", 2, ["run.c", "another name"], text, "-o", text, "--vocab", 300)
    refused("one name for two files", 2, ["--model"], text, "-o", OUT, "--vocab", 300, "--model",
            OUT)
    refused("bad coverage", 2, ["--coverage", "2"], text, "-o", OUT, "--vocab", 300, "--coverage",
            2)
    refused("too few tokens", 1, ["270", "at least 282", "260 fixed", "19 char", "3 added"], text,
            "-o", OUT, "--vocab", 270)
    refused("too many tokens", 1, ["400", "at most 300", "19 characters"], text, "-o", OUT,
            "--vocab", 400)
    refused("no usable file", 1, ["no text in it", "1 cannot", "1 are empty"],
            os.path.join(PLACE, "bad", "b", "nul.txt"), os.path.join(PLACE, "bad/b/empty.txt"),
            "-o", OUT, "--vocab", 300)
    refused("a special token twice", 1, ["<s>"], text, "-o", OUT, "--vocab", 300, "--special",
            "<s>")
    refused("a directory that is not there", 1, ["cannot create"], text, "-o",
            os.path.join(PLACE, "nowhere", "x"), "--vocab", 290)


shutil.rmtree(PLACE, ignore_errors=True)
os.makedirs(PLACE)
test_against_definition()
test_sources()
test_inputs()
test_errors()
end()
