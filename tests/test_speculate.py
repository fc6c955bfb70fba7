#!/usr/bin/env python3
"""test_speculate.py: speculation changes nothing but the time. Whatever ./run writes without it
(--speculate 0) it writes with it, by lookup and with a draft, greedy and sampled; and it proposes
and accepts what a few lines of Python say it should."""

import json
import os
import re

from badinput_files import A, DIM, HIDDEN, IM_END, TOKENS, U32, Gguf, adapter
from chat_model import write_model
from check import ROOT, SCRATCH, check, check_equal, end, program, short, start

FIXTURE, MHA = os.path.join(SCRATCH, "spec-gqa20.gguf"), os.path.join(SCRATCH, "spec-mha160.gguf")
COUNTS = re.compile(rb"speculation: (\d+) proposed, (\d+) accepted, ([\d.]+) tokens a pass\n"
                    rb"(seed \d+\n)?prompt ")
TALK = re.compile(rb"prompt (\d+) tokens .* generated (\d+) tokens|context of \d+ tokens is full")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
EDIT = "int a = 1;\nint b = 2;\nint c = 3;\nint a = 1;\nint"


def run(*arguments, **more):
    """A ./run that must succeed."""
    done = start(program("run"), *arguments, "-j", 1, **more)
    if done.returncode:
        check("run " + " ".join(map(str, arguments)), False, short(done.stderr))
    return done


def counts(done):
    """What was proposed and accepted."""
    found = COUNTS.search(done.stderr)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def ways(model, other):
    yield from (["--speculate", 4], [], ["--speculate", 64], ["--speculate-always"],
                ["--speculate-always", "--speculate", 1])
    for draft in model, other:
        yield ["--draft", draft]
        yield ["--draft", draft, "--speculate-always", "--speculate", 4]


def same(name, model, other, *options, **more):
    """All ways of speculation against none; returns what the latter wrote."""
    plain = run(model, *options, "--speculate", 0, **more)
    check(f"{name}: --speculate 0 proposes nothing", b"speculation" not in plain.stderr)
    for way in ways(model, other):
        done = run(model, *options, *way, **more)
        words = " ".join(os.path.basename(str(word)) for word in way)
        check_equal(f"{name} {words}", (done.stdout, TALK.findall(done.stderr)),
                    (plain.stdout, TALK.findall(plain.stderr)))
    return plain.stdout


def test_same():
    """Also where generation ends in the middle of what was accepted: -n, the context, --stop."""
    for name, model, other in MODELS:
        text = same(f"{name}, greedy", model, other, "-i", EDIT, "-n", 40)
        same(f"{name}, a full context", model, other, "-i", "abcdefgabcd", "-n", 0, "-c", 64)
        same(f"{name}, sampled", model, other, "-i", LETTERS, "-n", 30, "-t", 0.7, "-s", 3)
        same(f"{name}, penalty", model, other, "-i", LETTERS, "-n", 30, "-t", 0.9, "-s", 4,
             "--repeat-penalty", 1.3, "--logprobs", 2)
        stop = text[len(EDIT) + 9:len(EDIT) + 11]
        if stop.strip():
            same(f"{name}, --stop", model, other, "-i", EDIT, "--stop", os.fsdecode(stop))
    for n in 1, 2, 3, 6:
        same(f"alphabet, -n {n}", ALPHABET, FLAT, "-i", "abcdefabc", "-n", n, "--no-echo")
    same("alphabet, -b 1", ALPHABET, FLAT, "-i", "abcdefabc", "-n", 20, "-b", 1)
    same("alphabet, stops in what was accepted", ALPHABET, FLAT, "-i", LETTERS + "abc", "--stop",
         "mn")


def test_chat():
    """The second answer depends on the cache, the sampler and the place in it after the first."""
    typed = b"hello hello hello\nand hello hello again\n/reset\nhello hello hello\n"
    for name, options in ("greedy", []), ("sampled", ["-t", 0.8, "-s", 1]):
        for more in ["-n", 20], ["-n", 20, "--stop", "e"], ["-n", 0, "-c", 300]:
            same(f"chat, {name} {more}", CHAT, CHAT_OTHER, "-m", "chat", *options, *more,
                 stdin=typed)
    done = run(ENDLESS, "-m", "chat", "-n", 30, "--speculate-always", "--draft", ENDLESS,
               stdin=b"what was said\nand more\n/reset\nis forgotten by the draft, too\n")
    proposed, accepted = counts(done)
    check("chat: the draft forgets what the model forgets", proposed == accepted > 80,
          (proposed, accepted))


def test_adapter():
    """With --lora the model is another than its draft, and still decides."""
    strong = adapter({"blk.0.ffn_down.weight": (DIM, HIDDEN), "blk.1.attn_q.weight": (4, DIM)},
                     strength=40)
    lora = ["--lora", save("spec-lora.gguf", strong), "-n", 40]
    with_it = same("adapter", CHAT, CHAT_OTHER, "-i", EDIT, *lora)
    check("the adapter changes the text", with_it != run(CHAT, "-i", EDIT, "-n", 40).stdout)


class Lookup:
    """speculate.h's in a few lines: a match goes on while it is right; else the longest, and of
    those the latest, is looked for."""

    def __init__(self, prompt):
        self.seen, self.place = len(prompt), None

    def __call__(self, tokens):
        for n in range(self.seen + 1, len(tokens) + 1):
            if self.place is not None and tokens[self.place] == tokens[n - 1]:
                self.place += 1
            else:
                self.place = self.find(tokens[:n])
        self.seen = len(tokens)
        if self.place is None:
            return []
        found = list(tokens)
        for j in range(64):
            found.append(found[self.place + j])
        return found[len(tokens):]

    @staticmethod
    def find(tokens):
        best, place = 0, None
        for at in range(len(tokens) - 1, 0, -1):
            n = 0
            while n < min(at, 16) and tokens[at - 1 - n] == tokens[-1 - n]:
                n += 1
            if n > best:
                best, place = n, at
        return place


def simulate(prompt, said, limit, most, propose):
    """(proposed, accepted) where something is proposed whenever it can be and `limit` tokens may be
    said: propose(all tokens so far) gives those that may come."""
    proposed = accepted = 0
    i = 1
    while i < len(said):
        guess = propose(prompt + said[:i])[:max(0, min(most, limit - i - 1))]
        right = 0
        while right < len(guess) and i + right < len(said) and guess[right] == said[i + right]:
            right += 1
        proposed, accepted = proposed + len(guess), accepted + right
        i += right + 1
    return proposed, accepted


def test_counts():
    """The model as its own draft proposes its likeliest tokens, so greedy everything is accepted,
    and sampled what is likeliest."""
    some = 0
    for name, model, _ in MODELS:
        prompt = [int(i) for i in start(program("tokenizer"), "encode", model,
                                        stdin=EDIT.encode()).stdout.split()]
        for options in ["-n", 40], ["-n", 40, "-t", 0.6, "-s", 5]:
            done = run(model, "-i", EDIT, *options, "--logprobs", 1, "--speculate", 0)
            rows = [json.loads(line) for line in done.stdout.splitlines()]
            said, likeliest = [row["id"] for row in rows], [row["top"][0]["id"] for row in rows]
            for most in 1, 5, 16:
                always = [*options, "-i", EDIT, "--speculate-always", "--speculate", most]
                want = simulate(prompt, said, 40, most, Lookup(prompt))
                check_equal(f"{name} {options[2:]}: lookup of {most}",
                            counts(run(model, *always)), want)
                some += want[1]
                want = simulate(prompt, said, 40, most,
                                lambda tokens: likeliest[len(tokens) - len(prompt):] + [-1] * 40)
                check_equal(f"{name} {options[2:]}: drafts of {most}",
                            counts(run(model, *always, "--draft", model)), want)
    check("something was accepted", some > 30, some)
    proposed, accepted = counts(run(ALPHABET, "-i", EDIT, "-n", 40, "--speculate-always",
                                    "--draft", FLAT))
    check("a draft that is always wrong", proposed > 50 and accepted == 0, (proposed, accepted))


def test_pays():
    """By itself it proposes where a text repeats itself. How much depends on times, here those of
    a model so small that a row more costs nearly as much as a pass; it is never wrong."""
    proposed, accepted = counts(run(ALPHABET, "-i", LETTERS * 3, "-n", 0, "-c", 2000))
    check("a loop is followed", proposed == accepted > 0, (proposed, accepted))


def test_refused():
    def refused(name, code, *mentions, options):
        done = start(program("run"), ALPHABET, "-i", "a", *options)
        lines = done.stderr.decode(errors="replace").splitlines()
        check(name, done.returncode == code and len(lines) == 1 and
              all(word in lines[-1] for word in ("error: ", *mentions)), short(done))

    refused("a draft that is not there", 1, "no-such.gguf", options=["--draft", "no-such.gguf"])
    refused("a draft with more tokens", 1, "spec-gqa20.gguf", "353", "expected the model's 32",
            options=["--draft", FIXTURE])
    tokens = [*TOKENS[:7], (b"X", 0.0, 1), *TOKENS[8:]]
    other = save("spec-other.gguf", Gguf(tuple(tokens)))
    refused("a draft with another token", 1, "spec-other.gguf", "token 7 is 'X'", "'d'",
            options=["--draft", other])
    for option, value in [("--speculate", "-1"), ("--speculate", "65"), ("--speculate", "x")]:
        refused(f"{option} {value}", 2, option, value, options=[option, value])
    refused("--draft with --speculate 0", 2, "--draft", options=["--draft", ALPHABET,
                                                                 "--speculate", 0])


def save(name, g):
    path = os.path.join(SCRATCH, name)
    with open(path, "wb") as file:
        file.write(g.build())
    return path


def alphabet():
    """Says the alphabet for ever: z is followed by a, not by <|im_end|>."""
    g = Gguf().set("llama.context_length", U32, 2000)
    return g.poke("output.weight", IM_END * DIM + A + 25, 0.0).poke("output.weight",
                                                                   A * DIM + A + 25, 1.0)


def flat():
    """Its likeliest token is always 0, which no other model here says."""
    g = Gguf().set("llama.context_length", U32, 2000)
    for i in range(len(TOKENS) * DIM):
        g.poke("output.weight", i, 0.0)
    return g


os.makedirs(SCRATCH, exist_ok=True)
ALPHABET, FLAT = save("spec-alphabet.gguf", alphabet()), save("spec-flat.gguf", flat())
CHAT, CHAT_OTHER = write_model("spec-chat.gguf"), write_model("spec-chat-other.gguf", ends=1)
ENDLESS = write_model("spec-chat-endless.gguf", ends=0)
for target, source in (FIXTURE, "llama_gqa20"), (MHA, "llama_mha160"):
    start(program("convert"), os.path.join(ROOT, "tests/data", source), target)
MODELS = [("alphabet", ALPHABET, FLAT), ("characters", CHAT, CHAT_OTHER),
          ("fixture", FIXTURE, MHA)]
for test in test_same, test_chat, test_adapter, test_counts, test_pays, test_refused:
    test()
end()
