#!/usr/bin/env python3
"""flips.py: bits that have changed, numbers that are none, and threads.

Bits of the header and of the body of a model, a quantized one and a checkpoint are flipped, one at
a time, and blocks are lost, moved or doubled: `convert --check` finds it, and `run` ends with an
error, not with a signal. A weight of any tensor that is not a number ends `run` at the token that
meets it and `train` before its first update, also where no text would meet it, and no checkpoint
has it. The logits of a text have the same bits with any number of threads and any length of a
prompt's parts. OC_FLIPS says how many bits of each header and each body are flipped (60; make
flips: 10000 and all of the header, blocks of 256 bytes, 20 texts, 1, 2, 3, 4, 7, 8, 16 threads,
parts of 1 to 64 tokens), OC_MINUTES how long flipping may take."""

import concurrent.futures
import math
import os
import random
import shutil
import subprocess

import badinput_files
import chat_model
import torture
from badinput_files import Gguf
from check import ROOT, SCRATCH, Watch, check, end, program, short, skip

HOME = os.path.join(SCRATCH, f"flips-{os.getpid()}")
FLIPS = int(os.environ.get("OC_FLIPS", 60))
BLOCK = 4096 if FLIPS < 1000 else 256
UNUSED = 1  # a token that is not in the text
NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def place(name):
    return os.path.join(HOME, name)


def start(*words):
    return subprocess.run([program(words[0]), *map(str, words[1:])], cwd=ROOT, timeout=60,
                          stdin=subprocess.DEVNULL, capture_output=True)


def save(name, content):
    with open(place(name), "wb") as file:
        file.write(content)
    return place(name)


def train(model, out, *more):
    return start("train", "pretrain", place("text.tok"), "--init", model, "-o", place(out),
                 "--steps", 4, "--seq-len", 16, "--batch", 2, "--val-fraction", 0, "-j", 1, *more)


# ------------------------------------------------------------------------------------------- flips
def with_flip(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def with_damaged_blocks(content):
    """(what was done, content) for each block: zeroed, swapped with the next, in place of the next,
    twice, and the file cut there. Where that changes nothing it is left out."""
    n = BLOCK
    for at in range(0, len(content), n):
        before, block, rest = content[:at], content[at:at + n], content[at + n:]
        for what, changed in (("zeroed", before + bytes(len(block)) + rest),
                              ("swapped", before + rest[:n] + block + rest[n:]),
                              ("instead of the next", before + 2 * block + rest[n:]),
                              ("twice", before + 2 * block + rest), ("cut", before)):
            if changed != content:
                yield f"block at {at} {what}", changed


def found(name, what, changed, watch):
    """What is wrong with what becomes of a damaged file, or None."""
    if watch.over():
        return None
    path = place(f"{name} {what}")
    with open(path, "wb") as file:
        file.write(changed)
    try:
        for command in ("convert", "--check", path), ("run", path, "-i", "ab", "-n", 2, "-q"):
            done = start(*command)
            if done.returncode != 1 or done.stdout or not torture.is_error(done.stderr):
                return f"{what}, {command[0]}: exit code {done.returncode}, {short(done.stderr)}"
    finally:
        os.remove(path)
        watch.step()
    return None


def test_damage(name, content, parts):
    body = content.rindex(b".weight") + 64  # about where the names of tensors end
    noise = random.Random(name)
    bits = [*range(8 * body)] if FLIPS >= 10000 else noise.sample(range(8 * body), FLIPS)
    head = len(bits)
    bits += [noise.randrange(8 * body, 8 * len(content)) for _ in range(FLIPS)]
    noise.shuffle(bits)  # so that what there is no time for is of all regions
    path, watch = save(name, content), Watch(f"{name}, flips", len(bits), parts)
    for command in ("convert", "--check", path), ("run", path, "-i", "ab", "-n", 2, "-q"):
        done = start(*command)
        check(f"{name} as it is: {command[0]}", done.returncode == 0, short(done.stderr))
    blocks = list(with_damaged_blocks(content))
    every = Watch(f"{name}, blocks", len(blocks), 2 * parts)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        lost = [why for why in pool.map(lambda b: found(name, *b, every), blocks) if why]
        wrong = [why for why in pool.map(lambda bit: found(
            name, f"bit {bit % 8} of byte {bit // 8}", with_flip(content, bit), watch), bits)
                 if why]
    if not (watch.done and every.done):
        skip(f"{name}: {len(blocks)} blocks, {len(bits)} bits", "no time is left for them")
        return
    check(f"{name}: blocks of {BLOCK} bytes zeroed, moved, twice, cut: {every}", not lost,
          f"{len(lost)} not found, {lost[:2]}")
    check(f"{name}: {head} bits of the header and {FLIPS} of the body: {watch}", not wrong,
          f"{len(wrong)} not found, {wrong[:2]}")


# ----------------------------------------------------------------------------------------- numbers
def test_numbers():
    """In each kind of tensor; the model has two layers, and both are looked at."""
    names = [tensor[0] for tensor in Gguf().tensors]
    wrong, n = [], 0
    for name in names:
        said, value = random.Random(name).choice(list(NUMBERS.items()))
        g = Gguf().poke(name, 0, value)
        if name == "token_embd.weight":  # of tokens that are there: a, and the end of a document
            g.poke(name, 4 * 32, value).poke(name, badinput_files.EOS * 32, value)
        model = save("bad.gguf", g.build())
        done = start("run", model, "-i", "abc", "-n", 4, "-q")
        if done.returncode != 1 or not torture.is_error(done.stderr) or done.stdout.strip(b"abc\n"):
            wrong.append(f"run, {said} in {name}: {done.returncode}, {short(done.stderr)}")
        done = train(model, f"bad{n}", "--save-every", 1)
        first = b"update" not in done.stderr and f"tensor {name}, row".encode() in done.stderr
        saved = [file for file in os.listdir(HOME) if file.startswith(f"bad{n}.ckpt")]
        if done.returncode != 1 or not first or saved:
            wrong.append(f"train, {said} in {name}: {done.returncode}, {short(done.stderr)}")
        n += 1
    check(f"a weight that is no number, in each of {n} tensors", not wrong, wrong[:3])
    unused = Gguf().poke("token_embd.weight", UNUSED * 32 + 31, math.inf)
    done = train(save("unused.gguf", unused.build()), "unused", "--save-every", 1)
    check("in a row that no text uses: train", done.returncode == 1 and
          f"token_embd.weight, row {UNUSED}: inf".encode() in done.stderr and
          not any(name.startswith("unused.ckpt") for name in os.listdir(HOME)),
          f"{done.returncode}, {short(done.stderr)}")
    huge = Gguf()
    for column in range(32):
        huge.poke("output_norm.weight", column, 3e38)
    huge = save("huge.gguf", huge.build())
    done = start("run", huge, "-i", "abc", "-n", 4, "-q")
    check("activations that overflow: run", done.returncode == 1 and
          torture.is_error(done.stderr), f"{done.returncode}, {short(done.stderr)}")
    done = train(huge, "huge")
    check("a loss that overflows: train", done.returncode == 1 and b"finite" in done.stderr and
          not os.path.exists(place("huge")), f"{done.returncode}, {short(done.stderr)}")


# ----------------------------------------------------------------------------------------- threads
def told(model, text, threads, part):
    """All log-probabilities of what run writes after a text, of 256 tokens with it."""
    done = start("run", model, "-q", "-i", text, "-n", 256 - len(text), "-j", threads, "-b", part,
                 "--logprobs", chat_model.END + 1)
    return b"" if done.returncode else done.stdout


def dumped(model, text, threads):
    """Everything that run computes for a text."""
    done = start("run", model, "-q", "-i", text, "-j", threads, "--dump-activations", place("dump"))
    with open(place("dump"), "rb") as file:
        return b"" if done.returncode else file.read()


def test_threads():
    """In float32 and with q8_0; every text with all threads, and the first with all parts."""
    few, noise = FLIPS < 1000, random.Random(3)
    plain = chat_model.write_model(os.path.basename(HOME) + "/chat.gguf", context=512, ends=0)
    start("convert", plain, place("chat.q8"), "-q", "q8_0")
    threads = (1, 2, 7) if few else (1, 2, 3, 4, 7, 8, 16)
    for model in plain, place("chat.q8"):
        differ = []
        for n in range(1 if few else 20):
            text = "".join(noise.choice(chat_model.CHARACTERS[1:-1]) for _ in range(150))
            parts = (13, 64) if few or n else range(1, 65)
            ways = [*((j, 256) for j in threads), *((2, part) for part in parts)]
            logprobs = [told(model, text, *way) for way in ways]
            differ += [(n, way) for way, got in zip(ways, logprobs)
                       if got != logprobs[0] or not got]
            dumps = [dumped(model, text, j) for j in threads]
            differ += [(n, j, "dump") for j, got in zip(threads, dumps)
                       if got != dumps[0] or not got]
        check(f"{os.path.basename(model)}: any number of threads, any length of a prompt's parts: "
              "the same bits", not differ, differ[:5])


def main():
    os.makedirs(HOME, exist_ok=True)
    save("text.tok", torture.shard(torture.letters()))
    model = Gguf().build()
    test_damage("model", model, 3)
    start("convert", save("m.gguf", model), place("q8"), "-q", "q8_0")
    with open(place("q8"), "rb") as file:
        test_damage("quantized", file.read(), 2)
    train(place("m.gguf"), "out")
    with open(place("out.ckpt-000004"), "rb") as file:
        test_damage("checkpoint", file.read(), 1)
    test_numbers()
    test_threads()
    shutil.rmtree(HOME, ignore_errors=True)
    end()


if __name__ == "__main__":
    main()
