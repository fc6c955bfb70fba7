"""badinput_train.py: what training reads and writes: shards, checkpoints, shapes, options, outputs.

A run on a model of 3744 weights takes a tenth of a second. Checkpoints are those of a real run,
taken apart, changed and put together again with right checksums, so that what is tested is not only
the checksum."""

import functools
import math
import os
import random
import signal
import struct
import subprocess

import badinput_case
from badinput_case import (SECONDS, accept, act, broken, command_line, environment, reject, start,
                           tree, usage)
from badinput_files import (A, ARRAY, BYTES, CODES, EOS, F32, F64, LFS, Q8_0, STR, TOKENS, U32, U64,
                            Gguf, crc32c, q8_0)
from badinput_line import JUNK
from check import short
from tok_file import CHAT, NO_LOSS, chat, shard, vocab_crc

SMALL = "-t 8 -b 2 -n 2"
PRETRAIN = f"train pretrain t.tok --init m.gguf -o x {SMALL}"
SFT = f"train sft c.tok --init m.gguf -o x {SMALL}"
MADE = "x", "x.csv", "x.ckpt-000002"


@functools.lru_cache
def ids():
    noise = random.Random(5)
    return tuple(EOS if i % 9 == 8 else A + noise.randrange(26) for i in range(90))


@functools.lru_cache
def examples():
    return tuple(((A + i,) * (1 + i % 4), tuple(range(A, A + 2 + i % 5))) for i in range(16))


@functools.lru_cache
def files(**more):
    """m.gguf, t.tok, c.tok and more, as name__extension."""
    given = {"m.gguf": Gguf().build(), "t.tok": shard(ids()), "c.tok": chat(examples())}
    return {**given, **{name.replace("__", "."): content for name, content in more.items()}}


def works(name, command, made=MADE, **more):
    more.setdefault("files", files())
    return accept(f"train: {name}", command, out=b"", made=made, **more)


def fails(name, command, *words, **more):
    """Data or a system that ends the run, if need be after it has begun."""
    more.setdefault("files", files())
    return reject(f"train: {name}", command, more.pop("files"), *words, begun=True, **more)


def refuses(name, command, *words, **more):
    """A command line that makes no sense."""
    more.setdefault("files", files())
    return usage(f"train: {name}", command, *words, begun=True, **more)


# ----------------------------------------------------------------------------------------- shards
def header(content, form, at, value):
    """A shard with another number in its header, and the checksum made right again."""
    head = bytearray(content[:60])
    struct.pack_into(form, head, at, value)
    return bytes(head) + struct.pack("<I", crc32c(bytes(head))) + content[64:]


FIELDS = {"version": ("<I", 8), "vocab_size": ("<I", 12), "n_tokens": ("<Q", 16),
          "n_documents": ("<Q", 24), "width": ("<I", 40), "end_id": ("<I", 44), "kind": ("<I", 48),
          "vocab_crc": ("<I", 52), "data_crc": ("<I", 56)}


def damaged_headers():
    for command, name in (PRETRAIN, "t.tok"), (SFT, "c.tok"):
        whole = files()[name]
        for field, (form, at) in FIELDS.items():
            (now,) = struct.unpack_from(form, whole, at)
            top = (1 << 64 if form == "<Q" else 1 << 32) - 1
            values = {0, now + 1, now - 1, top, top >> 1} if name == "t.tok" else {0, now + 1}
            for value in sorted(values - {now, -1}):
                bad = {**files(), name: header(whole, form, at, value)}
                fine = field == "n_documents" and (now < value <= len(ids()) or name == "t.tok"
                                                   and value <= len(ids()))
                fine |= field == "vocab_size" and EOS < value < now
                fine |= field == "end_id" and name == "t.tok" and value < len(TOKENS)
                fine |= field == "kind" and name == "c.tok" and value == 0
                if fine:
                    continue
                yield fails(f"{name}: {field} {value}", command, name, files=bad)
        if name == "c.tok":  # the rest is the same code for both
            continue
        for at, what in (0, "magic"), (60, "header_crc"), (64, "padding"), (1023, "padding"):
            bad = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:]
            yield fails(f"{name}: {what} at {at}", command, name, files={**files(), name: bad})
        for size in (1, 8, 12, 60, 64, 1023, 1024, 1025, len(whole) - 1, len(whole) - 4):
            yield fails(f"{name}: cut to {size} bytes", command, name,
                        files={**files(), name: whole[:size]})
        yield fails(f"{name}: a byte more", command, name, files={**files(), name: whole + b"\0"})
        yield fails(f"{name}: doubled", command, name, files={**files(), name: whole * 2})
        noise = random.Random(6)
        for at in [*noise.sample(range(64), 4), *noise.sample(range(64, len(whole)), 4)]:
            bit = 1 << noise.randrange(8)
            bad = whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1:]
            yield fails(f"{name}: bit {bit} of byte {at} flipped", command, name,
                        files={**files(), name: bad})


def odd_shards():
    n = len(TOKENS)
    ends = [EOS | NO_LOSS]
    for name, command, content, word in (
            ("no tokens", PRETRAIN, shard([]), "0 tokens"),
            ("one token", PRETRAIN, shard([A]), "1 tokens"),
            ("an id of the vocabulary's size", PRETRAIN, shard([A, n] * 9), f"id {n}"),
            ("an id of 65535", PRETRAIN, shard([A, 65535] * 9), "id 65535"),
            ("a wide id", PRETRAIN, shard([A, 1 << 31] * 9, width=4), "id 2147483648"),
            ("a wide id like a mark", PRETRAIN, shard([A, A | 1 << 30] * 9, width=4), "id 10737"),
            ("chat: no tokens", SFT, shard([], CHAT, 4), "0 examples"),
            ("chat: only end ids", SFT, shard(ends * 5, CHAT, 4), "0 examples"),
            ("chat: no end", SFT, shard([A, A], CHAT, 4), "end id"),
            ("chat: an id", SFT, shard([A, n, *ends] * 9, CHAT, 4), f"id {n}"),
            ("chat: a marked id", SFT, shard([A, n | NO_LOSS, *ends] * 9, CHAT, 4), f"id {n}"),
            ("chat: the largest id", SFT, shard([A, NO_LOSS - 1, *ends] * 9, CHAT, 4), "id"),
            ("chat: too few documents", SFT, shard([A, A, *ends] * 9, CHAT, 4, n_documents=3), "3"),
            ("another vocabulary", PRETRAIN, shard(ids(), vocab_crc=1), "vocabulary"),
            ("a larger vocabulary", PRETRAIN, shard(ids(), vocab_size=n + 1), "vocabulary"),
            ("other tokens", PRETRAIN, shard(ids(), vocab_crc=vocab_crc(tuple(TOKENS[:-1]))),
             "vocabulary"),
            ("empty", PRETRAIN, b"", "empty"), ("text", PRETRAIN, b"x" * 2000, "octokens"),
            ("a model", PRETRAIN, Gguf().build(), "octokens"),
            ("LFS", PRETRAIN, LFS, "t.tok"), ("zeros", PRETRAIN, bytes(4096), "octokens")):
        target = "c.tok" if command == SFT else "t.tok"
        bad = {**files(), target: content}
        made = ("x.csv",) if word.startswith("id") else ()
        yield fails(f"shard: {name}", command, target, word, files=bad, made=made)
        if word in ("vocabulary", "empty", "0 tokens", "0 examples"):
            yield fails(f"--val: {name}", "train pretrain good.tok --init m.gguf -o x -t 8 -n 1 "
                        f"--val {target}", target, word, files={**bad, "good.tok": shard(ids())})
    for name, command, content in (
            ("only end ids", PRETRAIN, shard([EOS] * 9)), ("two tokens", PRETRAIN, shard([A, A])),
            ("without an end", PRETRAIN, shard([A] * 50)),
            ("wide", PRETRAIN + " --doc-mask", shard(ids(), width=4)),
            ("chat: no targets at all", SFT, chat([([A] * 3, [])] * 4)),
            ("chat: prompts that fill T", SFT, chat([([A] * 30, [A])] * 4)),
            ("chat: one token an example", SFT, shard([A, EOS | NO_LOSS] * 4, CHAT, 4)),
            ("chat: one example", SFT, chat(examples()[:1])),
            ("chat: empty documents", SFT + " --pack", shard(
                [EOS | NO_LOSS, EOS, A, A, EOS, EOS | NO_LOSS] * 4, CHAT, 4))):
        yield works(f"shard: {name}", command,
                    files={**files(), "c.tok" if command[:9] == SFT[:9] else "t.tok": content})


# -------------------------------------------------------------------------------------- checkpoints
SAVED = f"{PRETRAIN} --save-every 1"
RESUME = SAVED + " --resume"
ADAPTER = f"{SFT} --save-every 1 --lora 2"


class Reader:
    """Takes a GGUF file of train apart: trusts it."""

    def __init__(self, data):
        self.data, self.at = data, 8
        n_tensors, n_keys = self.take("Q"), self.take("Q")
        self.file = Gguf()
        self.file.keys = [self.key() for _ in range(n_keys)]
        entries = [self.entry() for _ in range(n_tensors)]
        begin = (self.at + 31) // 32 * 32
        self.file.tensors = [
            [name, dims, kind, data[begin + offset:begin + offset + 4 * math.prod(dims)]]
            for name, dims, kind, offset in entries]
        self.file.keys = [key for key in self.file.keys if "crc32c" not in key[0]]

    def take(self, form):
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def text(self):
        n = self.take("Q")
        self.at += n
        return self.data[self.at - n:self.at]

    def value(self, kind):
        if kind == STR:
            return self.text()
        if kind == ARRAY:
            item, n = self.take("I"), self.take("Q")
            return item, [self.value(item) for _ in range(n)]
        return self.take(CODES[kind])

    def key(self):
        name, kind = self.text().decode(), self.take("I")
        return [name, kind, self.value(kind)]

    def entry(self):
        name = self.text().decode()
        dims = tuple(self.take("Q") for _ in range(self.take("I")))
        return name, dims, self.take("I"), self.take("Q")


@functools.lru_cache
def saved(command):
    """What a real run leaves behind: {name: bytes}, in a directory with its inputs."""
    place = os.path.join(badinput_case.PLACE, "saved")
    os.makedirs(place, exist_ok=True)
    for name in os.listdir(place):
        os.remove(os.path.join(place, name))
    for name, content in files().items():
        with open(os.path.join(place, name), "wb") as file:
            file.write(content)
    done = start(command, place)
    if done.returncode:
        raise OSError(done.stderr)
    return tree(place)


def changed(name, change, command=SAVED):
    """The file of that run after change(Gguf), with right checksums."""
    g = Reader(saved(command)[name]).file
    change(g)
    return g.build()


def with_checkpoint(content, command=SAVED):
    """The directory of a run that ended at its first update, with this for its checkpoint."""
    there = saved(command)
    return {**files(), "x.csv": there["x.csv"], "x.ckpt-000001": content}


def retype(name, kind, value):
    return lambda g: g.set(name, kind, value)


def drop(name):
    """Without a key or tensor; without all tensors that begin so, where it ends with a dot."""
    def change(g):
        for found in [t[0] for t in g.tensors if name[-1] == "." and t[0].startswith(name)]:
            g.drop(found)
        g.drop(name)
    return change


TRAIN = "opencoder.train."
CHANGES = {
    **{f"without {key}": drop(TRAIN + key) for key in (
        "step", "tokens", "updates", "skipped_bad", "skipped_spike", "skipped_empty", "cursors",
        "mean_loss", "recipe")},
    **{f"{key} of another type": retype(TRAIN + key, U32, 1) for key in (
        "step", "tokens", "updates", "skipped_bad", "cursors", "mean_loss", "recipe")},
    **{f"{key} too large": retype(TRAIN + key, U64, (1 << 63) - 1) for key in (
        "step", "tokens", "updates", "skipped_bad", "skipped_spike", "skipped_empty")},
    "step negative": retype(TRAIN + "step", U64, (1 << 64) - 1),
    "step beyond the end": retype(TRAIN + "step", U64, 3),
    "cursors of one number": retype(TRAIN + "cursors", ARRAY, (U64, [1])),
    "cursors of three numbers": retype(TRAIN + "cursors", ARRAY, (U64, [1, 2, 3])),
    "cursors u32": retype(TRAIN + "cursors", ARRAY, (U32, [1, 2])),
    "cursors of none": retype(TRAIN + "cursors", ARRAY, (U64, [])),
    "mean_loss f32": retype(TRAIN + "mean_loss", F32, 1.0),
    "recipe empty": retype(TRAIN + "recipe", STR, b""),
    "recipe cut": lambda g: g.set(TRAIN + "recipe", STR, g.value(TRAIN + "recipe")[:-9]),
    "recipe longer": lambda g: g.set(TRAIN + "recipe", STR, g.value(TRAIN + "recipe") + b"x\n"),
    "recipe of NULs": retype(TRAIN + "recipe", STR, bytes(2000)),
    "recipe of escapes": retype(TRAIN + "recipe", STR, b"\x1b[31m\xff\n" * 90),
    "recipe without an end": lambda g: g.set(
        TRAIN + "recipe", STR, g.value(TRAIN + "recipe").replace(b"--lr ", b"--lr 1")),
    "opt.m without opt.v": drop("opt.v."), "opt.v without opt.m": drop("opt.m."),
    "without opt": drop("opt."),
    "one opt.m missing": drop("opt.m.blk.1.ffn_up.weight"),
    "one weight missing": drop("blk.1.ffn_up.weight"),
    "opt.v transposed": lambda g: g.tensor("opt.v.blk.0.ffn_up.weight").__setitem__(1, (4, 32)),
    "opt.m short": lambda g: g.tensor("opt.m.output_norm.weight").__setitem__(
        slice(1, 4), [(16,), 0, bytes(64)]),
    "opt.m q8_0": lambda g: g.store("opt.m.output.weight", Q8_0, q8_0([0.0] * 32 * len(TOKENS))),
    "a tensor more": lambda g: g.tensors.append(["blk.7.bias", (2,), 0, bytes(8)]),
    "another shape": retype("llama.embedding_length", U32, 16),
    "heads of 3": retype("llama.attention.head_count", U32, 3),
    "no vocabulary": drop("tokenizer.ggml.tokens"),
}
GENTLE = {"a cursor of 2^64 - 1": retype(TRAIN + "cursors", ARRAY, (U64, [(1 << 64) - 1] * 2)),
          "updates 2^56 - 1": retype(TRAIN + "updates", U64, (1 << 56) - 1),
          "tokens 2^56 - 1": retype(TRAIN + "tokens", U64, (1 << 56) - 1),
          "mean_loss NaN": retype(TRAIN + "mean_loss", F64, math.nan),
          "an opt more": lambda g: g.tensors.append(["opt.z", (2,), 0, bytes(8)])}


def checkpoints():
    first = "x.ckpt-000001"
    whole = saved(SAVED)[first]
    done = ("x", "x.ckpt-000002")
    change_csv = {"may_change": ("x.csv",)}
    yield works("resume", RESUME, done, files=with_checkpoint(whole), **change_csv)
    for name, change in GENTLE.items():
        yield works(f"checkpoint: {name}", RESUME, done,
                    files=with_checkpoint(changed(first, change)), **change_csv)
    for name, change in CHANGES.items():
        code = 2 if name.startswith("recipe ") and "type" not in name else 1
        yield fails(f"checkpoint: {name}", RESUME, first, code=code,
                    files=with_checkpoint(changed(first, change)))
    for at in (0, 4, 8, 16, 24, 40, 3000, len(whole) // 2, len(whole) - 1):
        bad = whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:]
        yield fails(f"checkpoint: a bit of byte {at}", RESUME, first, files=with_checkpoint(bad))
    for size in (0, 1, 24, 1000, len(whole) // 2, len(whole) - 1):
        yield fails(f"checkpoint: cut to {size} bytes", RESUME, first,
                    files=with_checkpoint(whole[:size]))
    nan = changed(first, lambda g: g.poke("blk.0.attn_q.weight", 3, math.nan))
    yield fails("checkpoint: a weight is NaN", RESUME, "blk.0.attn_q.weight", "finite",
                files=with_checkpoint(nan), **change_csv)
    huge = changed(first, lambda g: g.poke("opt.v.blk.0.attn_q.weight", 3, math.nan))
    yield works("checkpoint: a moment is NaN", RESUME, done, files=with_checkpoint(huge),
                **change_csv)
    yield fails("checkpoint: there, and no --resume", SAVED, first, "--resume",
                files=with_checkpoint(whole))
    yield works("checkpoint: others beside it, one damaged", RESUME + " --keep 2", done, files={
        **with_checkpoint(whole), "x.ckpt-": b"1", "x.ckpt-1x": b"2", "x.ckpt-000005": b"3",
        "x.ckpt-123456789012345678": b"4"}, **change_csv)
    lora = saved(ADAPTER)[first]
    for at in 0, 30, lora.index(b"adapter") + 1, len(lora) - 40:
        bad = lora[:at] + bytes([lora[at] ^ 4]) + lora[at + 1:]
        yield fails(f"adapter: a bit of byte {at}", ADAPTER + " --resume", first,
                    files=with_checkpoint(bad, ADAPTER))
    yield works("adapter: resume", ADAPTER + " --resume", done,
                files=with_checkpoint(lora, ADAPTER), **change_csv)
    yield refuses("adapter: a model's checkpoint", ADAPTER + " --resume", first,
                  files=with_checkpoint(whole))
    yield fails("adapter: the checkpoint, and no --lora", SFT + " --save-every 1 --resume", first,
                files=with_checkpoint(lora, ADAPTER))
    yield refuses("adapter: another rank", ADAPTER.replace("a 2", "a 3") + " --resume", "--lora",
                  files=with_checkpoint(lora, ADAPTER))
    for name, change in {
            "without a pair": drop("blk.0.attn_q.weight.lora_a"),
            "a B of another shape": lambda g: g.tensor("blk.0.attn_q.weight.lora_b").__setitem__(
                1, (4, 2)),
            "without opt.m": drop("opt.m."),
            "no tensors": lambda g: g.tensors.clear()}.items():
        yield fails(f"adapter: {name}", ADAPTER + " --resume",
                    files=with_checkpoint(changed(first, change, ADAPTER), ADAPTER))
    anneal = f"train anneal t.tok --init ck -o x {SMALL}"
    for name in ("opt.m without opt.v", "without opt", "opt.v transposed", "without updates",
                 "updates too large"):
        yield works(f"anneal from a checkpoint: {name}", anneal,
                    files={**files(), "ck": changed(first, CHANGES[name])})
    yield works("anneal an adapter from a checkpoint", f"{anneal} --lora 2",
                files={**files(), "ck": whole})
    yield works("anneal from updates 2^64 - 5", anneal, files={
        **files(), "ck": changed(first, retype(TRAIN + "updates", U64, (1 << 64) - 5))})
    yield fails("sft from an adapter", f"train sft c.tok --init ck -o x {SMALL}", "ck",
                files={**files(), "ck": lora})
    for program in "run ck -i a -n 2", "convert --check ck", "convert --inspect ck":
        yield accept(f"train: a checkpoint: {program}", program, {"ck": whole},
                     lambda out: len(out) > 2)
    yield accept("train: an adapter's checkpoint: run", "run m.gguf --lora ck -i a -n 2",
                 {**files(), "ck": lora}, lambda out: len(out) > 2)
    for name, text in ("text", b"hello\nworld\n"), ("a header cut and more", b"step,tokens\n1,2\n"):
        yield fails(f"OUT.csv: {name}", PRETRAIN, "x.csv", "first line",
                    files={**files(), "x.csv": text})
    for name, text in (("empty", b""), ("half a header", b"step,tok"), ("lines missing", b"".join(
            saved(SAVED)["x.csv"].splitlines(True)[:1])), ("junk below", saved(SAVED)["x.csv"]
                                                           + b"\0,,,,\n9\n-3,x\n" + b"," * 5000)):
        yield works(f"OUT.csv: {name}", RESUME + " --plot p.svg", (*done, "p.svg"),
                    files={**with_checkpoint(whole), "x.csv": text}, **change_csv)


# ---------------------------------------------------------------------------------- shapes, options
def shapes():
    new = f"train pretrain t.tok -z m.gguf -o x {SMALL} "
    for words, mention in (
            ("--heads 3 --dim 4 --layers 1", "head dimension"),
            ("--heads 4 --dim 12 --layers 1", "even"),
            ("--heads 8 --dim 4 --layers 1", "head dimension"),
            ("--heads 1024 --dim 1024 --layers 1", "head dimension"),
            ("--heads 4 --dim 16 --layers 1 --kv-heads 3", "multiple"),
            ("--heads 2 --dim 16 --layers 1 --kv-heads 4", "key/value"),
            ("--heads 2 --dim 16 --layers 1 --head-dim 7", "even"),
            ("--heads 2 --dim 16 --layers 1 --head-dim 1", "head dimension"),
            ("--heads 2 --dim 16", "--layers"), ("--layers 2 --dim 16", "--heads"),
            ("--layers 2", "--shape"), ("", "--shape"),
            ("--shape 9b", "9b"), ("--shape tiny --kv-heads 3", "multiple"),
            ("--shape tiny -t 2000", "--seq-len"),
            ("--shape tiny --ctx 16 -t 17", "--seq-len")):
        yield refuses(f"shape: {words}", new + words, mention)
    for words in ("--dim 65536 --layers 1024 --heads 1024 --head-dim 1024 --hidden 1048576",
                  "--dim 65536 --layers 1 --heads 1 --head-dim 2 --hidden 1048576",
                  "--dim 2 --layers 1024 --heads 1 --hidden 1048576",
                  "--dim 8 --heads 1 --layers 1 --ctx 16777216 -t 16777216",
                  "--dim 8 --heads 1 --layers 1 --ctx 16777216 -t 16384 -b 65536 -m 65536",
                  "--dim 8 --heads 1 --layers 1 -b 16777216"):
        yield act(f"train: no memory for {words}", functools.partial(no_memory, new + words),
                  files())
    yield refuses("more than 2^30 positions", new + "--dim 8 --heads 1 --layers 1 --ctx 16777216 "
                  "-t 1048576 -b 65536 -m 65536", "--micro-batch", "2^30")
    yield accept("train: --plan takes no data, no vocabulary", "train pretrain --shape tiny --plan",
                 {}, lambda out: out.startswith(b"9445440 parameters"))
    yield usage("train: --plan of no shape", "train pretrain --plan --dim 8", "--tokenizer")
    for words in ("--dim 2 --heads 1 --layers 1", "--dim 1 --heads 1 --head-dim 2 --layers 1 "
                  "--hidden 1", "--dim 8 --heads 4 --kv-heads 1 --head-dim 6 --layers 2 --tied",
                  "--dim 8 --heads 2 --layers 1 --theta 1e-12", "--dim 8 --heads 2 --layers 1 "
                  "--theta 1e12", "--dim 8 --heads 2 --layers 1 --init-std 0",
                  "--dim 8 --heads 2 --layers 1 --ctx 1 -t 1"):
        yield works(f"shape: {words}", new + words)


def no_memory(command, directory):
    """What is more than a process may have is said in one line."""
    before = tree(directory)
    env = environment(more=":allocator_may_return_null=1")
    done = subprocess.run(command_line(command), cwd=directory, env=env, capture_output=True,
                          timeout=SECONDS)
    done.stderr = done.stderr[max(done.stderr.rfind(b"error: "), 0):]
    if broken(done) or done.returncode != 1 or b"out of memory" not in done.stderr:
        return broken(done) or f"exit code {done.returncode}: {short(done.stderr)}"
    return None if tree(directory) == before else f"left behind: {sorted(tree(directory))}"


def options():
    whole = {"-n": 1 << 30, "-b": 1 << 24, "-m": 65536, "-t": 1 << 24, "-j": 1024,
             "--keep": 1 << 20, "--lora": 4096, "--save-every": 1 << 30, "--seed": 9 * 10 ** 15,
             "--stage": 2}
    for option, most in whole.items():
        for text in (JUNK[1], str(most + 1)):
            yield refuses(f"{option} {text!r}", [*PRETRAIN.split(), option, text], option,
                          "whole number")
    for option, most in (("--lr", 11), ("--beta1", 1), ("--eps", 2), ("--clip", 2e9),
                         ("--val-fraction", 0.6), ("--decay-fraction", 2), ("--epochs", 2e6)):
        for text in ("nan", str(most)):
            yield refuses(f"{option} {text!r}", [*PRETRAIN.split(), option, text], option,
                          "a number")
    for words, mention in (
            ("--eps 0", "--eps"), ("--schedule flat", "--schedule"), ("--loss-mean mean", "--loss"),
            ("--epochs 1", "--steps"), ("--tokens 100", "--steps"), ("--stage 2", "--stage"),
            ("--lora-alpha 3", "--lora"), ("--prompt a", "--prompt"), ("--pack", "--pack"),
            ("--sample-every 1", "--prompt"), ("--shape tiny", "--init"), ("--dim 8", "--init"),
            ("-z m.gguf", "--init"), ("--tied", "--init"), ("--layers 2", "--init"),
            ("--heads 2", "--init"), ("--kv-heads 1", "--init"), ("--head-dim 2", "--init"),
            ("--hidden 4", "--init"), ("--ctx 16", "--init"), ("--theta 1e4", "--init"),
            ("--init-scaled", "--init"), ("--cpu 486", "--cpu"), ("-t 65", "65"),
            ("--lora 4097", "--lora"), ("--keep 0", "--keep"), ("--log-every 0", "--log-every"),
            ("--schedule exp --lr 0", "--lr"), ("--schedule exp --min-lr 0", "--min-lr"),
            ("--decay-fraction .5 --min-lr 0", "--min-lr"), ("--nosuch", "--nosuch"),
            ("--decay-fraction .5 --schedule cosine", "wsd"), ("t.tok=0", "t.tok=0"),
            ("t.tok=nan", "nan"), ("t.tok=1e10", "1e10"), ("t.tok=", "t.tok="),
            ("t.tok=-1", "-1"), ("c.tok=1", "weight"), ("-o", "-o"), ("--resume=1", "--resume")):
        yield refuses(f"option: {words}", f"{PRETRAIN} {words}", mention)
    yield refuses("17 times --val", PRETRAIN + " --val t.tok" * 17, "--val", "16")
    yield refuses("no data", "train pretrain --init m.gguf -o x", "data")
    yield refuses("no -o", "train pretrain t.tok --init m.gguf", "-o")
    yield refuses("-o ''", ["train", "pretrain", "t.tok", "--init", "m.gguf", "-o", ""], "-o")
    yield refuses("no command", "train t.tok -o x", "t.tok")
    yield refuses("no command, options", "train -o x t.tok", "command")
    yield refuses("no model", "train pretrain t.tok -o x", "--tokenizer")
    yield refuses("--lora, new model", "train sft c.tok -z m.gguf --shape tiny --lora 2 -o x",
                  "--init")
    for words in ("--warmup 1000000", "--schedule linear --warmup 2", "--lr 0", "--min-lr 10",
                  "--decay-fraction 1", "--decay-fraction 1e-320", "--clip 0", "--clip 1e-30",
                  "--val-fraction 0.5", "--val-fraction 0", "--val-rows 0", "--beta1 0 --beta2 0",
                  "--recompute --doc-mask", "-m 65536", "-j 3", "--seed 0",
                  "--seed 9000000000000000", "--save-every 0 --keep 1", "--weight-decay 10",
                  "--schedule constant --spike 1e-9", "--val t.tok --val c.tok --val-every 1",
                  "--loss-mean hf -m 1", "-t 1", "-t 64", "--verify", "--log-every 1000000",
                  "--lora 64 --lora-alpha 1e6 --lr 0"):
        yield works(f"option: {words}", f"{PRETRAIN} {words}")
    for words in ("", "é ü", "a" * 500, "\n\t"):
        yield works(f"option: --prompt {words[:8]!r}", [*PRETRAIN.split(), "--sample-every", "1",
                                                        "--prompt", words, "--temp", "100"])


# ------------------------------------------------------------------------------------------ outputs
def in_place(name, prepare, command, judge):
    """A case that needs more than files: prepare(directory), run, judge(done, directory)."""
    def run(directory):
        prepare(directory)
        before = tree(directory)
        done = start(command, directory)
        return broken(done) or judge(done, before, tree(directory))
    return act(f"train: {name}", run, files())


def refused_with(*words, code=1, may_be_new=()):
    def judge(done, before, after):
        lines = [line for line in done.stderr.splitlines() if line.startswith(b"error: ")]
        if done.returncode != code or len(lines) != 1 or not done.stderr.endswith(lines[0] + b"\n"):
            return f"exit code {done.returncode}, expected {code}: {short(done.stderr)}"
        if not all(word.encode() in lines[0] for word in words):
            return f"{short(lines[0])} does not mention {words}"
        new = set(after) - set(before) - set(may_be_new)
        gone = [name for name in before if before[name] != after.get(name)]
        return f"left behind: {new}, changed: {gone}" if new or gone else None
    return judge


def link(name, target):
    return lambda directory: os.symlink(target, os.path.join(directory, name))


def pipe(name):
    return lambda directory: os.mkfifo(os.path.join(directory, name))


def folder(name):
    return lambda directory: os.mkdir(os.path.join(directory, name))


def outputs():
    for name in "t.tok", "m.gguf", "./t.tok":
        yield refuses(f"OUT is {name}", PRETRAIN.replace("-o x", f"-o {name}"), name,
                      "another name")
        yield refuses(f"--plot is {name}", f"{PRETRAIN} --plot {name}", name, "another name")
    yield refuses("OUT is --val", f"{PRETRAIN} --val c.tok -o c.tok", "c.tok", "another name")
    yield refuses("OUT is -z", "train pretrain t.tok -z m.gguf --dim 4 --heads 1 --layers 1 "
                  "-t 8 -b 1 -n 1 -o m.gguf", "m.gguf", "another name")
    data = {**files(), "x.csv": files()["t.tok"]}
    yield refuses("OUT.csv is the data", PRETRAIN.replace("t.tok", "x.csv"), "x.csv",
                  "another name", files=data)
    for name in "x", "x.csv", "./x.csv", "no/../x.csv":
        yield refuses(f"--plot is {name}", f"{PRETRAIN} --plot {name}", name, "twice",
                      files={**files(), "no/file": b""})
    long = {f"OUT of {n} bytes": "o" * n for n in (5000, 260, 252, 245, 238)}
    for title, name in long.items():
        yield fails(title, PRETRAIN.replace("-o x", f"-o {name}"), "too long")
    for name in "no/x", "no/such/x", "t.tok/x":
        yield fails(f"OUT {name}", PRETRAIN.replace("-o x", f"-o {name}"), name)
        yield fails(f"--plot {name}", f"{PRETRAIN} --plot {name}", name, "directory")
    for name in "/dev/full", "/dev/null", ".", "..", "/":
        yield fails(f"OUT {name}", PRETRAIN.replace("-o x", f"-o {name}"), name, "regular")
        yield fails(f"--plot {name}", f"{PRETRAIN} --plot {name}", name)
    for name in "no.tok", "/dev/null", "/dev/zero", ".", "", "x" * 300, "a\n\x1b[31mb":
        yield fails(f"data {name[:9]!r}", ["train", "pretrain", name, "--init", "m.gguf", "-o",
                                           "x"], name[:1])
        if len(name) < 9:
            yield fails(f"--init {name!r}", ["train", "pretrain", "t.tok", "--init", name, "-o",
                                             "x"], name[:1])
    for name, content in (("empty", b""), ("text", b"x" * 99), ("LFS", LFS),
                          ("a shard", shard(ids()))):
        for option in "--init", "--shape tiny -z":
            yield fails(f"{option} {name}", f"train pretrain t.tok {option} bad -o x", "bad",
                        files={**files(), "bad": content})
    for name, target in ("x.csv", "/dev/full"), ("x", "/dev/full"), ("x.csv", "/dev/null"):
        yield in_place(f"{name} leads to {target}", link(name, target), PRETRAIN,
                       refused_with(name, "regular"))
    for name, command in (("x.csv", PRETRAIN), ("x", PRETRAIN), ("p.svg", PRETRAIN +
                          " --plot p.svg"), ("f", PRETRAIN.replace("t.tok", "f")),
                          ("f", PRETRAIN.replace("m.gguf", "f")), ("f", PRETRAIN + " --val f")):
        yield in_place(f"{name} is a FIFO: {command[15:]}", pipe(name), command,
                       refused_with(name, "regular", may_be_new=("x.csv",)))
    for name in "x.csv", "x", "p.svg", "x.ckpt-000002":
        yield in_place(f"{name} is a directory", folder(name), PRETRAIN + " --plot p.svg",
                       refused_with(name, may_be_new=("x.csv",)))
    for name in "x.csv", "p.svg":
        yield act(f"train: a directory that takes no files, {name}",
                  functools.partial(read_only, name), files())
    yield act("train: stderr closed", functools.partial(closed, "2>&-"), files())
    yield act("train: everything closed", functools.partial(closed, "<&- >&- 2>&-"), files())
    yield act("train: nobody reads stderr any more", lost_stderr, files())
    yield act("train: the shard cut short", cut_underfoot, files())
    yield act("train: a limit on the size of files", size_limit, files())
    yield act("train: temporary files of the dead", sweep, files())


def read_only(name, directory):
    """Nobody may make files in the directory; those that are there may be written."""
    if os.getuid() == 0:
        os.chmod(badinput_case.PLACE, 0o755)
    for file in (name, "x.csv"):
        with open(os.path.join(directory, file), "wb"):
            pass
        os.chmod(os.path.join(directory, file), 0o666)
    os.chmod(directory, 0o555)
    before = tree(directory)
    try:
        done = start(PRETRAIN + " --plot p.svg", directory,
                     **({"user": 65534} if os.getuid() == 0 else {}))
        return broken(done) or refused_with("Permission denied")(done, before,
                                                                       tree(directory))
    except PermissionError:
        return None
    finally:
        os.chmod(directory, 0o755)


def closed(how, directory):
    """Files that are opened must not become stderr."""
    line = command_line(PRETRAIN + " --plot p.svg")
    done = subprocess.run(["/bin/sh", "-c", f'"$@" {how}', "sh", *line], cwd=directory,
                          env=environment(), stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=SECONDS)
    there = tree(directory)
    if done.returncode or not set(MADE) <= set(there):
        return f"exit code {done.returncode}, files {sorted(there)}"
    lines = there["x.csv"].splitlines()
    if len(lines) != 3 or any(line.count(b",") != 8 for line in lines):
        return f"x.csv is {short(there['x.csv'])}"
    if not there["p.svg"].startswith(b"<svg"):
        return "p.svg begins with something else"
    for name in "x", "x.ckpt-000002":
        check = start(f"convert --check {name}", directory)
        if check.returncode:
            return f"{name}: {short(check.stderr)}"
    return None


def lost_stderr(directory):
    child = subprocess.Popen(command_line(PRETRAIN + " -n 30 --log-every 1"), cwd=directory,
                             env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not child.stderr.readline().startswith((b"step", b"")):
        pass
    child.stderr.close()
    code = child.wait(timeout=SECONDS)
    return None if code in (0, -signal.SIGPIPE) else f"exit code {code}"


def cut_underfoot(directory):
    """Another process cuts the shard that is mapped: an error, not a crash."""
    child = subprocess.Popen(command_line(PRETRAIN.replace("-n 2", "-n 100000")), cwd=directory,
                             env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not child.stderr.readline().startswith((b"step", b"error")):
        pass
    os.truncate(os.path.join(directory, "t.tok"), 0)
    _, err = child.communicate(timeout=SECONDS)
    lines = [line for line in err.splitlines() if line.startswith(b"error: ")]
    if child.returncode != 1 or len(lines) != 1 or b"changed" not in lines[0]:
        return f"exit code {child.returncode}: {short(err)}"
    return None


def size_limit(directory):
    before = tree(directory)
    done = start(PRETRAIN, directory, ulimit="-f 8")
    return broken(done) or refused_with("x.ckpt-000002", "File too large",
                                        may_be_new=("x.csv",))(done, before, tree(directory))


def sweep(directory):
    """What killed runs have left goes away, what belongs to others stays."""
    gone = "x.tmp-2000000001", "x.ckpt-000001.tmp-2000000001", "p.svg.tmp-2000000001"
    stay = f"x.tmp-{os.getpid()}", "y.tmp-2000000001", "x.tmp-", "x.tmp-1a", "x.tmp-0", "x-tmp-9", \
        "x.tmp-99999999999999999999", "xx.tmp-2000000001"
    for name in gone + stay:
        with open(os.path.join(directory, name), "wb"):
            pass
    done = start(PRETRAIN + " --plot p.svg", directory)
    left = tree(directory)
    wrong = [name for name in gone if name in left] + [name for name in stay if name not in left]
    return broken(done) or (f"wrong: {wrong}" if wrong or done.returncode else None)


# ------------------------------------------------------------------------- ./tokenizer train, pack
def tokenizers():
    vocab = Gguf((*TOKENS, *BYTES)).build()
    more = {"v": vocab, "a.txt": b"hello world\n" * 20, "e.txt": b"", "b.txt": b"\xff\xfe\0",
            "j.jsonl": b'{"text": "abc"}\n', "bad.jsonl": b"{\n[]\n{\"text\": 5}\n",
            "c.jsonl": b'{"instruction": "a", "output": "b"}\n'}
    pack = "tokenizer pack a.txt --tokenizer v -o x.tok"
    train = "tokenizer train a.txt --vocab 275 -o x.gguf"
    for name, command, words, code in (
            ("no input", "tokenizer pack -o x --tokenizer v", ["no input"], 2),
            ("no -o", "tokenizer pack a.txt --tokenizer v", ["-o"], 2),
            ("no --tokenizer", "tokenizer pack a.txt -o x", ["--tokenizer"], 2),
            ("OUT is --tokenizer", pack.replace("x.tok", "v"), ["v"], 2),
            ("OUT is the text", pack.replace("x.tok", "a.txt"), ["a.txt"], 2),
            ("OUT is in no directory", pack.replace("x.tok", "no/x"), ["no/x"], 1),
            ("OUT is a directory", pack.replace("x.tok", "."), ["regular"], 1),
            ("OUT is full", pack.replace("x.tok", "/dev/full"), ["/dev/full"], 1),
            ("OUT is too long", pack.replace("x.tok", "x" * 300), ["too long"], 1),
            ("nothing to read", pack.replace("a.txt", "e.txt"), ["e.txt"], 1),
            ("a missing file", pack.replace("a.txt", "no"), ["no"], 1),
            ("a device", pack.replace("a.txt", "/dev/zero"), ["/dev/zero"], 1),
            ("nothing of use", pack.replace("a.txt", "b.txt"), ["b.txt"], 1),
            ("bad lines", pack.replace("a.txt", "bad.jsonl"), ["bad.jsonl"], 1),
            ("text for a chat", pack + " --kind chat", ["a.txt"], 1),
            ("chats and texts", pack.replace("a.txt", "c.jsonl j.jsonl --no-shuffle"), ["text"], 1),
            ("--kind", pack + " --kind poem", ["--kind"], 2),
            ("--field of a chat", pack + " --kind chat --field a", ["--field"], 2),
            ("a vocabulary that is text", pack.replace("v ", "a.txt "), ["a.txt"], 1)):
        yield reject(f"pack: {name}", command, more, *words, code=code, begun=True)
    for name, command, words, code in (
            ("no text", "tokenizer train -o x --vocab 300", ["no text"], 2),
            ("no -o", "tokenizer train a.txt --vocab 300", ["-o"], 2),
            ("no --vocab", "tokenizer train a.txt -o x", ["--vocab"], 2),
            ("--vocab 0", train.replace("275", "0"), ["--vocab"], 2),
            ("--vocab -1", train.replace("275", "-1"), ["--vocab"], 2),
            ("--vocab 2^40", train.replace("275", str(1 << 40)), ["--vocab"], 2),
            ("--vocab too small", train.replace("275", "261"), ["--vocab", "at least"], 1),
            ("--vocab too large", train.replace("275", "5000"), ["--vocab", "at most"], 1),
            ("OUT is the text", train.replace("x.gguf", "a.txt"), ["a.txt"], 2),
            ("OUT is --model", train + " --model x.gguf", ["--model"], 2),
            ("OUT is ./--model", train + " --model ./x.gguf", ["x.gguf"], 2),
            ("--model is the text", train + " --model a.txt", ["a.txt"], 2),
            ("OUT is full", train.replace("x.gguf", "/dev/full"), ["/dev/full"], 1),
            ("--model in no directory", train + " --model no/m", ["no/m"], 1),
            ("OUT is a directory", train.replace("x.gguf", "."), ["regular"], 1),
            ("nothing to read", train.replace("a.txt", "e.txt"), ["e.txt"], 1),
            ("nothing of use", train.replace("a.txt", "b.txt"), ["b.txt"], 1)):
        yield reject(f"vocabulary: {name}", command, more, *words, code=code, begun=True)


def cases():
    for group in (damaged_headers, odd_shards, checkpoints, shapes, options, outputs, tokenizers):
        yield from group()
