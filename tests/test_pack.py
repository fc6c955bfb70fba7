#!/usr/bin/env python3
"""test_pack.py: `tokenizer pack`. The ids of a shard are those that `tokenizer encode` gives for
the pieces; the marks of conversations are those of OpenCoder's training script; the bytes are the
same for any number of threads. Damaged shards are test_shards.c's matter."""

import functools
import glob
import json
import os
import shutil
import struct

import badinput_files
from check import (ROOT, SCRATCH, check, check_equal, end, program, short, start,
                   write_file)

PLACE = os.path.join(SCRATCH, "pack")
VOCAB, OUT = os.path.join(PLACE, "vocab.gguf"), os.path.join(PLACE, "out.tok")
N_VOCAB = 600
END, IM_END, IM_START = N_VOCAB - 3, N_VOCAB - 2, N_VOCAB - 1
SYSTEM = "You are OpenCoder, created by OpenCoder Team."
NO_LOSS = 1 << 31


def place(name, content):
    return write_file(os.path.join(PLACE, name), content)


def lines(name, *records):
    """A JSON Lines file; records that are text stand there as they are."""
    return place(name, "".join((r if isinstance(r, str) else json.dumps(r)) + "\n"
                               for r in records))


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def pack(*words, vocab=VOCAB):
    done = start(program("tokenizer"), "pack", "-o", OUT, "--tokenizer", vocab, *words)
    if done.returncode:
        check(f"pack {short(words)}", False, short(done.stderr))
        return b"", ""
    with open(OUT, "rb") as file:
        return file.read(), done.stderr.decode()


def read(shard):
    """The header as a dictionary, and the tokens."""
    names = "version vocab_size n_tokens n_documents n_bytes width end_id kind vocab_crc " \
            "data_crc header_crc".split()
    if len(shard) < 1024:
        return dict.fromkeys(names), []
    head = dict(zip(names, struct.unpack("<IIQQQIIIIII", shard[8:64])))
    letter = {2: "H", 4: "I"}[head["width"]]
    return head, [token for token, in struct.iter_unpack("<" + letter, shard[1024:])]


def documents(tokens, close):
    """Cut behind each closing id."""
    found, row = [], []
    for token in tokens:
        row.append(token)
        if token == close:
            found.append(row)
            row = []
    return found + ([row] if row else [])


@functools.lru_cache(maxsize=None)
def ids(text):
    done = start(program("tokenizer"), "encode", VOCAB, "--no-special", "-i", "-",
                 stdin=text.encode())
    return [int(word) for word in done.stdout.split()]


def refused(name, code, mentions, *words, vocab=VOCAB):
    done = start(program("tokenizer"), "pack", *words, *(["--tokenizer", vocab] if vocab else []))
    last = done.stderr.decode().splitlines()[-1:] or [""]
    check(name, done.returncode == code and last[0].startswith("error: ") and
          all(word in last[0] for word in mentions), f"exit code {done.returncode}, {short(last)}, "
          f"expected {code} and {mentions}")


TEXTS = ["def f(x):\n    return x\n", "Some <|endoftext|> and <|im_end|>, <s>\u00e9",
         "  \n\n int main(void) {}\n", "1234567 // \u4e16"]


def test_texts():
    want = [token for text in TEXTS for token in [*ids(text), END]]
    for name, words in {
            "content": [lines("a.jsonl", *[{"content": t, "text": "no"} for t in TEXTS])],
            "text": [lines("b.jsonl", *[{"n": 1, "text": t} for t in TEXTS])],
            "--field": [lines("c.jsonl", *[{"text": "no", "code": t} for t in TEXTS]), "--field",
                        "code"],
            "files": [os.path.dirname([place(f"d/{i}.txt", t) for i, t in enumerate(TEXTS)][0])],
            "--kind": [lines("e.jsonl", *[{"text": t, "instruction": 5} for t in TEXTS]), "--kind",
                       "text"]}.items():
        shard, said = pack(*words, "--no-shuffle")
        head, tokens = read(shard)
        check_equal(f"ids of {name}", tokens, want)
        size = sum(len(text.encode()) for text in TEXTS)
        check_equal(f"header of {name}", [head[key] for key in (
            "version", "vocab_size", "n_tokens", "n_documents", "n_bytes", "width", "end_id",
            "kind")], [1, N_VOCAB, len(want), 4, size, 2, END, 0])
        check(f"last line of {name}", said.splitlines()[-1].startswith(
            f"4 documents, {len(want)} tokens, {size} bytes, {size / len(want):.3f} bytes a token"),
            said)
    check_equal("magic and zeros", (shard[:8], shard[64:1024]), (b"octokens", bytes(960)))
    check_equal("checksums", (head["header_crc"], head["data_crc"]),
                (crc32c(shard[:60]), crc32c(shard[1024:])))
    again, _ = pack(lines("again.jsonl", *[{"text": t} for t in TEXTS]), "--no-shuffle")
    check("the same text, the same file", again == shard)


def test_order():
    paths = sorted(glob.glob(os.path.join(ROOT, "export", "*.c")))
    plain, _ = pack(*paths, "--no-shuffle")
    shuffled, _ = pack(*paths)
    for threads in (1, 2, 3):
        check(f"the same from {threads} threads", pack(*paths, "-j", threads)[0] == shuffled)
    other, _ = pack(*paths, "--seed", 1)
    rows = [documents(read(shard)[1], END) for shard in (plain, shuffled, other)]
    check("no shuffle: in order", all(len(row) == len(paths) for row in rows) and
          rows[0][0] == [*ids(read_text(paths[0])), END])
    check("a seed, an order", rows[0] != rows[1] != rows[2] != rows[0])
    check("of the same documents", sorted(rows[0]) == sorted(rows[1]) == sorted(rows[2]))
    long = place("long.txt", "".join(read_text(path) for path in paths) * 12)
    want = ids(read_text(long))
    check("a long file is one document", len(read_text(long)) > 3 << 19 and
          read(pack(long, "-j", 3)[0])[1] == [*want, END])
    lines_only = place("lines.txt", "x" + "return\n" * 170000)  # 2^20 is inside of a word
    check("it is cut between words only", read(pack(lines_only)[0])[1] ==
          [*ids(read_text(lines_only)), END])


def test_many_words():
    """More different words than are remembered; then some of the first again."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    text = "".join(" " + letters[i % 26] + letters[i // 26 % 26] + letters[i // 676 % 26] +
                   letters[i // 17576] for i in (*range(290000), *range(5000)))
    check("more words than are remembered",
          read(pack(place("words.txt", text), "-j", 1)[0])[1] == [*ids(text), END])


def read_text(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def message(role, content, learned=False):
    """<|im_start|> role \\n content <|im_end|> with marks."""
    run = ids(f"{role}\n{content}" + "\n" * learned)
    border = len(ids("assistant\n")) if learned else len(run)
    return [IM_START | NO_LOSS, *[token | NO_LOSS for token in run[:border]], *run[border:],
            IM_END | NO_LOSS * (not learned)]


def chat(*turns):
    """(role, content, ...) as OpenCoder is trained on it."""
    row = []
    if turns[0] != "system":
        turns = ("system", SYSTEM, *turns)
    for role, content in zip(turns[::2], turns[1::2]):
        if row:
            row += [token | NO_LOSS for token in ids("\n")]
        row += message(role, content, role == "assistant")
    return [*row, END | NO_LOSS]


def messages(*turns):
    return {"messages": [{"role": role, "content": content}
                         for role, content in zip(turns[::2], turns[1::2])]}


def test_chats():
    several = ("system", "Be brief.", "user", "a <|im_end|>", "assistant", "  b\n", "user", "c",
               "assistant", "")
    open_end = ("user", "q", "assistant", "\n\nreturn 1;", "user", "why?")
    cases = [
        ("instruction and output", {"instruction": "Add two numbers.", "output": "int x;\n"},
         chat("user", "Add two numbers.", "assistant", "int x;\n")),
        ("input and response", {"instruction": "Add.", "input": "1, 2", "response": "3"},
         chat("user", "Add.\n1, 2", "assistant", "3")),
        ("an answer that begins with a line feed", {"instruction": "i", "output": "\n  x"},
         chat("user", "i", "assistant", "\n  x")),
        ("several turns, own system message", messages(*several), chat(*several)),
        ("an open end", messages(*open_end), chat(*open_end)),
    ]
    for name, record, want in cases:
        head, tokens = read(pack(lines("chat.jsonl", record))[0])
        check_equal(f"chat: {name}", tokens, want)
        check_equal(f"header of chat: {name}", [head[key] for key in (
            "n_tokens", "n_documents", "width", "end_id", "kind")], [len(want), 1, 4, END, 1])
    learned = [token for token in cases[2][2] if token < NO_LOSS]
    check("the line feed moves the border", learned[-1] == IM_END and
          learned[:-1] == ids("assistant\n\n  x\n")[len(ids("assistant\n")):])
    path = lines("mixed.jsonl", messages("user", "a"), *[case[1] for case in cases], {"x": 1},
                 "no JSON", messages("user", 5), {"messages": []}, {"instruction": "a"},
                 {"messages": 1})
    shard, said = pack(path, "--no-shuffle")
    check_equal("all of them", read(shard)[1], [token for case in cases for token in case[2]])
    check("what is left out is said", "left out: 5 that cannot be used, 1 empty ones" in said and
          "left out: 1 conversations without an answer" in said and
          f"{path}:7: no \"messages\"" in said and f"{path}:9: key content: a number" in said, said)
    for threads in (1, 2, 3):
        check(f"the same chats from {threads} threads", pack(
            path, "-j", threads, "--no-shuffle")[0] == shard)


def test_width():
    """More than 65535 tokens need 32 bits. And an end id that is eos."""
    for n, width, name in ((65535, 2, "</s>"), (65536, 4, "</s>")):
        more = [(b"%d!" % i, -100.0 - i, 1)
                for i in range(n - len(badinput_files.TOKENS) - 256)]
        g = badinput_files.Gguf((*badinput_files.TOKENS, *badinput_files.BYTES, *more))
        g.tensors = []
        vocab = place("wide.gguf", g.build())
        head, tokens = read(pack(place("x.txt", "abc"), vocab=vocab)[0])
        check_equal(f"{n} tokens: bytes a token", (head["width"], head["vocab_size"]), (width, n))
        check(f"{n} tokens: ends with eos", tokens and tokens[-1] == head["end_id"] and
              tokens.count(tokens[-1]) == 1, short(tokens))


def test_errors():
    good = lines("good.jsonl", {"text": "a"})
    pair = {"instruction": "a", "output": "b"}
    refused("no input", 2, ["no input"], "-o", OUT)
    refused("no output", 2, ["-o"], good)
    refused("no tokenizer", 2, ["--tokenizer"], good, "-o", OUT, vocab=None)
    refused("an unknown kind", 2, ["--kind", "prose"], good, "-o", OUT, "--kind", "prose")
    refused("a field of chats", 2, ["--field"], good, "-o", OUT, "--kind", "chat", "--field", "x")
    refused("output is input", 2, ["good.jsonl", "another name"], good, "-o", good)
    refused("output is the vocabulary", 2, ["vocab.gguf", "another"], good, "-o", VOCAB)
    refused("no model", 1, ["good.jsonl", "GGUF"], good, "-o", OUT, vocab=good)
    bad = lines("bad.jsonl", {"text": "a"}, "", pair)
    refused("a chat among texts", 1, ["bad.jsonl:3", "a chat", "texts only"], bad, "-o", OUT)
    bad = lines("bad.jsonl", pair, {"text": "a"})
    refused("a text among chats", 1, ["bad.jsonl:2", "a text", "chats only"], bad, "-o", OUT)
    refused("a file among chats", 1, ["x.txt", "a text"], lines("p.jsonl", pair),
            place("x.txt", "a"), "-o", OUT)
    refused("nothing usable", 1, ["nothing to pack", "2 cannot", "1 are empty"],
            lines("none.jsonl", "{}", "[", {"text": ""}), "-o", OUT)
    refused("nothing there", 1, ["nothing to pack"], os.path.join(PLACE, "nowhere"), "-o", OUT)
    place("many/n.jsonl", b'{"text": "\xff"}\n{"text": 1}\n{"text": "a"}\n')
    place("many/nul", b"\0")
    shard, said = pack(os.path.join(PLACE, "many"), "nowhere")
    check("bad ones do not stop it", read(shard)[1] == [*ids("a"), END] and
          "left out: 4 that cannot be used" in said, said)
    no_chat = os.path.join(ROOT, "tests", "data", "tok_llama.gguf")
    refused("a vocabulary without chats", 1, ["no token <|im_start|>"], lines("p.jsonl", pair),
            "-o", OUT, vocab=no_chat)


shutil.rmtree(PLACE, ignore_errors=True)
os.makedirs(PLACE)
trained = start(program("tokenizer"), "train", os.path.join(ROOT, "run.c"), "-o", VOCAB, "--vocab",
                N_VOCAB)
check("there is a vocabulary", trained.returncode == 0, short(trained.stderr))
test_texts()
test_order()
test_many_words()
test_chats()
test_width()
test_errors()
end()
