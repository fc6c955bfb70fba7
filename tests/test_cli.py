#!/usr/bin/env python3
"""test_cli.py: the programs as a user starts them. stdout carries the text and nothing else,
stderr all talk, exit codes are 0, 1 (bad data), 2 (usage) and 130 (Ctrl-C); the text is the same
for any number of threads and any prompt batch. Broken files are badinput.py's matter."""

import json
import math
import os
import re
import shutil
import signal
import subprocess

from badinput_files import Gguf
import show_gguf
from check import (ROOT, SCRATCH, check, check_equal, end, program, short, skip, start,
                   write_file)

RATES = re.compile(r"prompt \d+ tokens [\d.]+ tok/s, generated (\d+) tokens [\d.]+ tok/s, "
                   r"[\d.]+ GB/s\n\Z")
PROMPT = "def fib(n):\n    return"
DATA = os.path.join(ROOT, "tests", "data")
MODEL = os.path.join(SCRATCH, "cli.gguf")

STORIES = os.path.join(os.path.dirname(ROOT), "shared", "data")  # not part of the repository


def run(*arguments, **more):
    return start(program("run"), *arguments, **more)


def text_of(*arguments, **more):
    """stdout of a ./run that must succeed, None if it does not."""
    done = run(*arguments, **more)
    if done.returncode or not RATES.search(done.stderr.decode(errors="replace")):
        check("run " + " ".join(map(str, arguments)), False,
              f"exit code {done.returncode}, {short(done.stderr)}")
        return None
    return done.stdout


def check_error(name, done, code, *mentions):
    """One line on stderr that begins with `error: ` and mentions what is given."""
    lines = done.stderr.decode(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    check(name, done.returncode == code and len(errors) == 1 and
          all(word in errors[0] for word in mentions),
          f"exit code {done.returncode}, {short(done.stderr)}, expected {code}, one error: line "
          f"and {', '.join(mentions)}")


def test_help():
    for name, word in [("run", "-i"), ("convert", "-q"), ("tokenizer", "encode")]:
        for option in ("-h", "--help"):
            done = start(program(name), option)
            check(f"{name} {option}", done.returncode == 0 and word.encode() in done.stdout and
                  not done.stderr and done.stdout.endswith(b"\n"), short(done))
        done = start(program(name), "--version")
        check(f"{name} --version", done.returncode == 0 and
              re.fullmatch(rb"opencoder\.c [\d.]+\n", done.stdout), short(done.stdout))
        check_equal(f"{name} without arguments", start(program(name)).returncode, 2)
        check_error(f"{name} --nonsense", start(program(name), "--nonsense"), 2, "--nonsense",
                    "try -h")


def test_generate():
    plain = text_of(MODEL, "-i", PROMPT, "-n", 40)
    if plain is None:
        return
    check("the prompt comes first, a newline last",
          plain.startswith(PROMPT.encode()) and plain.endswith(b"\n"), short(plain))
    check_equal("--no-echo leaves the prompt out",
                text_of(MODEL, "-i", PROMPT, "-n", 40, "--no-echo"), plain[len(PROMPT):])
    prompt_file = os.path.join(SCRATCH, "prompt.txt")
    with open(prompt_file, "w", encoding="utf-8") as file:
        file.write(PROMPT)
    check_equal("-f reads a file", text_of(MODEL, "-f", prompt_file, "-n", 40), plain)
    check_equal("-i - reads stdin", text_of(MODEL, "-i", "-", "-n", 40, stdin=PROMPT.encode()),
                plain)
    check_equal("long names", text_of(MODEL, f"--prompt={PROMPT}", "--n-predict", 40), plain)
    done = run(MODEL, "-i", PROMPT, "-n", 40, "-q")
    check_equal("-q: nothing on stderr", (done.stdout, done.stderr), (plain, b""))
    for threads in (1, 2, 3, 7):
        for batch in (1, 7, 64):
            check_equal(f"{threads} threads, batches of {batch}",
                        text_of(MODEL, "-i", PROMPT, "-n", 40, "-j", threads, "-b", batch), plain)
        check_equal(f"OMP_NUM_THREADS={threads}",
                    text_of(MODEL, "-i", PROMPT, "-n", 40, env={"OMP_NUM_THREADS": str(threads)}),
                    plain)
    stop = plain[len(PROMPT) + 12:len(PROMPT) + 15].replace(b"\0", b"")
    check_equal("--stop ends before its text",
                text_of(MODEL, "-i", PROMPT, "-n", 40, "--stop", os.fsdecode(stop)),
                plain[:plain.index(stop, len(PROMPT))] + b"\n")


def test_sampling():
    sampled = ["-i", PROMPT, "-n", 30, "-t", 1.5, "-p", 0.95]
    one = text_of(MODEL, *sampled, "-s", 1)
    check_equal("the same seed, the same text", text_of(MODEL, *sampled, "-s", 1), one)
    check_equal("and with other threads", text_of(MODEL, *sampled, "-s", 1, "-j", 3), one)
    check("another seed, another text", text_of(MODEL, *sampled, "-s", 2) != one)
    check_equal("top-k 1 is greedy", text_of(MODEL, *sampled, "--top-k", 1),
                text_of(MODEL, "-i", PROMPT, "-n", 30))


def test_limits():
    done = run(MODEL, "-i", PROMPT, "-n", 0, "-c", 60)
    check("-n 0 goes on to the end of the context", done.returncode == 0 and
          b"context of 60 tokens is full" in done.stderr, short(done))
    check_error("a prompt beyond the context", run(MODEL, "-i", PROMPT, "-c", 3), 1, "3")
    check_error("an empty prompt", run(MODEL, "-i", ""), 2, "-i")
    for option, value in [("-n", "x"), ("-n", "-1"), ("-t", "nan"), ("-j", "1e3"), ("-b", "0"),
                          ("-c", "99999999"), ("--cpu", "z80"), ("-m", "nonsense")]:
        check_error(f"{option} {value}", run(MODEL, "-i", "a", option, value), 2, option, value)
    check_error("a model that is not there", run("no-such.gguf", "-i", "a"), 1, "no-such.gguf")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([program("run"), MODEL, "-i", "a"], stdout=full, stderr=-1,
                              timeout=60, check=False)
    check_error("a full disk", done, 1, "stdout")


def test_ended():
    """A reader that goes away and Ctrl-C end the program quietly."""
    command = [program("run"), MODEL, "-i", PROMPT, "-n", "0"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    err = child.stderr.read()
    check("a closed pipe ends it", child.wait(60) in (0, 1) and b"error: " not in err, short(err))
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.read(len(PROMPT) + 1)
    child.send_signal(signal.SIGINT)
    err = child.communicate(timeout=60)[1]
    check("Ctrl-C ends it", child.returncode == 130 and b"error: " not in err,
          f"exit code {child.returncode}, {short(err)}")


def test_bytes():
    """Any bytes are text: invalid UTF-8, NUL."""
    raw = b"a\0b\xff\xfe\x80 \xf0\x9f\n"
    done = run(MODEL, "-i", "-", "-n", 4, stdin=raw)
    check("stdin of any bytes", done.returncode == 0 and done.stdout.startswith(raw), short(done))
    ids = start(program("tokenizer"), "encode", MODEL, stdin=raw)
    again = start(program("tokenizer"), "decode", MODEL, stdin=ids.stdout)
    check_equal("tokenizer: decode(encode(bytes))", again.stdout, raw)
    check_equal("tokenizer: <|im_end|> is one id",
                start(program("tokenizer"), "encode", MODEL, "-i", "<|im_end|>").stdout, b"351\n")


def test_outputs():
    done = run(MODEL, "-i", PROMPT, "-n", 5, "--logprobs", 3)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    check("--logprobs: a JSON line for each token", len(rows) == 5 and all(
        len(row["top"]) == 3 and row["top"][0]["id"] == row["id"] and row["logprob"] <= 0
        for row in rows), short(done.stdout))
    greedy = text_of(MODEL, "-i", PROMPT, "-n", 5, "--no-echo")
    check_equal("--logprobs: the bytes are the text",
                b"".join(bytes(row["bytes"]) for row in rows) + b"\n", greedy)
    done = run(MODEL, "--perplexity", os.path.join(ROOT, "tests", "check.py"))
    found = re.match(rb"perplexity ([\d.]+), ([\d.]+) nats a token, [\d.]+ bits", done.stdout)
    check("--perplexity", done.returncode == 0 and found and float(found.group(1)) > 1,
          short(done))
    dump = os.path.join(SCRATCH, "dump.gguf")
    done = run(MODEL, "-i", PROMPT, "--dump-activations", dump)
    check("--dump-activations", done.returncode == 0 and os.path.getsize(dump) > 10000,
          short(done))


def test_perplexity():
    """The number is transformers', over the windows that run_perplexity describes: recorded with
    torch 2.15.0, transformers 4.57.6, float32, eager attention."""
    model = os.path.join(SCRATCH, "cli-gqa20.gguf")
    text = os.path.join(DATA, "llama_gqa20", "tokenizer_config.json")
    start(program("convert"), os.path.join(DATA, "llama_gqa20"), model)
    done = run(model, "--perplexity", text, "-c", 64, "--exact")
    found = re.match(rb"perplexity ([\d.]+), .* 1281 tokens, 1448 bytes\n\Z", done.stdout)
    check("--perplexity as in transformers", found and
          abs(float(found.group(1)) / 19849.7535 - 1) < 1e-4, short(done))
    check_error("--perplexity -c 1", run(model, "--perplexity", text, "-c", 1), 2, "-c")
    with open(model, "wb") as file:
        file.write(Gguf().poke("output_norm.weight", 0, float("nan")).build())
    check_error("--perplexity of NaN", run(model, "--perplexity", text), 1, "logit")


AGAINST = re.compile(rb"against (.+): KL ([\d.]+) nats a token \(largest ([\d.]+)\), "
                     rb"same top token ([\d.]+) %, perplexity ([\d.]+), ours ([-+][\d.]+) %\n\Z")


def last_logits(model, ids, *options):
    """The logits after each of the beginnings of a text but the whole, by way of dumps."""
    dump = os.path.join(SCRATCH, "logits.gguf")
    rows = []
    for n in range(1, len(ids)):
        text = start(program("tokenizer"), "decode", model, *ids[:n]).stdout.strip(b"\n")
        run(model, "-i", text.decode(), "--dump-activations", dump, *options)
        gguf = show_gguf.Gguf(dump)
        check_equal(f"tokens {n}", gguf.keys["tokens"], ids[:n])
        rows.append(gguf.rows("logits")[-1])
    return rows


def log_softmax(row):
    most = max(row)
    total = most + math.log(sum(math.exp(x - most) for x in row))
    return [x - total for x in row]


def test_against():
    """KL is 0 from a model to itself, and what Python makes of the logits elsewhere."""
    base, model = (os.path.join(SCRATCH, f"against-{kind}.gguf") for kind in ("f32", "q4_0"))
    for path, kind in ((base, "f32"), (model, "q4_0")):
        start(program("convert"), os.path.join(DATA, "llama_mha160"), path, "-q", kind)
    text = write_file(os.path.join(SCRATCH, "against.txt"), "abcdefgh")
    done = run(model, "--perplexity", text, "--against", model, "--exact")
    found = AGAINST.search(done.stdout)
    check("--against itself is 0", found and found.group(1) == model.encode() and
          [float(x) for x in found.groups()[1:]] ==
          [0, 0, 100, float(done.stdout.split()[1].strip(b",")), 0], short(done))
    done = run(model, "--perplexity", text, "--against", base)
    found = AGAINST.search(done.stdout)
    ids = start(program("tokenizer"), "encode", model, "-i", "abcdefgh").stdout.split()
    ids, n = [int(word) for word in ids], len(ids) - 1
    ours, theirs = last_logits(model, ids), last_logits(base, ids, "--exact")
    kl = [sum(math.exp(p) * (p - q) for p, q in zip(log_softmax(a), log_softmax(b)))
          for a, b in zip(theirs, ours)]
    check("--against f32 is the KL of the logits", found and n > 3 and kl and
          abs(float(found.group(2)) - sum(kl) / n) < 2e-6 + 1e-4 * sum(kl) / n > 0 and
          abs(float(found.group(3)) - max(kl)) < 1e-4 and float(found.group(2)) > 0,
          f"{short(done.stdout)}, expected {sum(kl) / max(n, 1)} and {max(kl, default=0)}")
    alone = run(base, "--perplexity", text, "--exact").stdout.split()[1].strip(b",")
    check_equal("--against: perplexity of the base", found and found.group(5), alone)
    check_error("--against without --perplexity", run(model, "-i", "a", "--against", base), 2,
                "--against", "--perplexity")
    with open(other := os.path.join(SCRATCH, "against-other.gguf"), "wb") as file:
        file.write(Gguf().build())
    check_error("--against another vocabulary", run(model, "--perplexity", text, "--against",
                other, "-c", 2), 1, other, "vocabulary", "353")
    check_error("--against nothing", run(model, "--perplexity", text, "--against", "no.gguf"), 1,
                "no.gguf", "cannot open")


def test_edges():
    """Where generation ends, and the BOS that a GGUF file need not name."""
    full = run(MODEL, "-i", "<|im_end|>" * 5, "-n", 6, "-c", 9)
    check("a context that is full too early", b"context of 9 tokens is full" in full.stderr and
          b"generated 5 tokens" in full.stderr, short(full))
    exact = run(MODEL, "-i", "<|im_end|>" * 5, "-n", 6, "-c", 10)
    check("a context that is full with the last token", b"full" not in exact.stderr and
          b"generated 6 tokens" in exact.stderr, short(exact))
    alphabet = os.path.join(SCRATCH, "alphabet.gguf")
    with open(alphabet, "wb") as file:
        file.write(Gguf().build())
    rows = run(alphabet, "-i", "a", "--logprobs", 1, "--stop", "ef").stdout.splitlines()
    check_equal("--stop with --logprobs", [json.loads(row)["token"] for row in rows],
                ["b", "c", "d", "e", "f"])
    g = Gguf()
    for key in "bos_token_id", "eos_token_id", "add_bos_token":
        g.drop("tokenizer.ggml." + key)
    with open(alphabet, "wb") as file:
        file.write(g.build())
    info = start(program("tokenizer"), "info", alphabet).stdout
    check("BOS is 1 where a file does not say", b"bos 1, eos 2," in info and
          b"add_bos 1" in info, short(info))


def test_chat():
    done = run(MODEL, "-m", "chat", "-n", 8, stdin=b"hi\n/reset\nhi\n/exit\nhi\n")
    half = len(done.stdout) // 2
    check("chat: /reset forgets, /exit ends", done.returncode == 0 and half > 1 and
          done.stdout[:half] == done.stdout[half:], short(done))
    one = run(MODEL, "-m", "chat", "-n", 8, stdin=b"a\\\nb\n")
    block = run(MODEL, "-m", "chat", "-n", 8, stdin=b'"""\na\nb\n"""\n')
    check("chat: a message of several lines", one.returncode == 0 and block.returncode == 0 and
          len(one.stdout) > 1, short(one))


def test_convert():
    for name in ("llama_mha160", "llama_gqa20", "llama_mqa30", "llama_v5"):
        paths = [os.path.join(SCRATCH, part) for part in (f"{name}.1.gguf", name,
                                                          f"{name}.2.gguf")]
        shutil.rmtree(paths[1], ignore_errors=True)
        steps = [start(program("convert"), os.path.join(DATA, name), paths[0]),
                 start(program("convert"), paths[0], paths[1], "-o", "hf"),
                 start(program("convert"), paths[1], paths[2])]
        wrong = [step.stderr for step in steps if step.returncode]
        if check(f"convert {name} to GGUF, to Hugging Face, to GGUF", not wrong, short(wrong)):
            with open(paths[0], "rb") as first, open(paths[2], "rb") as last:
                check(f"{name}: there and back is bit-equal", first.read() == last.read())
        done = start(program("convert"), "--check", paths[0])
        check(f"convert --check {name}", done.returncode == 0, short(done))
        done = start(program("convert"), "--inspect", paths[0])
        check(f"convert --inspect {name}", done.returncode == 0 and
              b"token_embd.weight" in done.stdout, short(done))
    tiny = os.path.join(SCRATCH, "tiny.gguf")
    done = start(program("convert"), "--random", "tiny", tiny, "-q", "q8_0", "--seed", 5)
    if check("convert --random tiny", done.returncode == 0, short(done)):
        check("and it runs", text_of(tiny, "-i", "def", "-n", 5) is not None)
        check_begin(tiny)


def check_begin(tiny):
    """convert --begin: every text then stands behind that token, also in a Hugging Face copy."""
    begun, copy = tiny + ".begun", os.path.join(SCRATCH, "begun")
    token = "<|endoftext|>"
    encode = lambda model, text: start(program("tokenizer"), "encode", model, "-i", text).stdout
    start(program("convert"), tiny, begun, "--begin", token)
    check_equal("convert --begin", encode(begun, "def"), encode(tiny, token + "def"))
    shutil.rmtree(copy, ignore_errors=True)
    start(program("convert"), begun, copy, "-o", "hf", "-q", "bf16")
    start(program("convert"), copy, begun + ".back")
    check_equal("and there and back", encode(begun + ".back", "def"), encode(begun, "def"))
    start(program("convert"), tiny, begun, "--ctx", 77)
    check("convert --ctx", b"context 77," in run(begun, "-i", "def", "-n", 2).stderr)
    check_error("convert --ctx can only shorten", start(program("convert"), begun, begun + ".no",
                "--ctx", 78), 1, "78", "at most 77")
    check_error("convert --begin of no token", start(program("convert"), tiny, begun + ".no",
                "--begin", "<nope>"), 1, "<nope>", "expected one of its vocabulary")


def test_terminal():
    """On a terminal, stderr shows how far convert is; elsewhere it shows nothing."""
    master, slave = os.openpty()
    done = subprocess.run([program("convert"), MODEL, os.path.join(SCRATCH, "shown.gguf")],
                          cwd=ROOT, stderr=slave, timeout=60)
    os.close(slave)
    shown = b""
    try:
        while more := os.read(master, 1 << 16):
            shown += more
    except OSError:  # so Linux tells that the other end is closed
        pass
    os.close(master)
    check("convert shows how far it is", done.returncode == 0 and b"100 %" in shown and
          shown.count(b"\n") == 1, short(shown))


def test_stories():
    """A real model: word for word what llama2.c's own program prints."""
    if not os.path.exists(os.path.join(STORIES, "stories260K.bin")):
        skip("stories260K", f"{STORIES} is not there")
        return
    with open(os.path.join(DATA, "stories260K.json"), encoding="utf-8") as file:
        recorded = json.load(file)["after"]
    own = os.path.join(SCRATCH, "stories260K.gguf")
    done = start(program("convert"), os.path.join(STORIES, "stories260K.bin"), own, "--tokenizer",
                 os.path.join(STORIES, "tok512.bin"))
    check("convert stories260K.bin", done.returncode == 0, short(done))
    for model in (own, os.path.join(STORIES, "stories260K-f32.gguf")):
        for prompt, story in recorded.items():
            got = text_of(model, "-i", prompt, "-n", 300) or b""
            check_equal(f"{os.path.basename(model)} after {prompt!r}",
                        got[:len(story)].decode(errors="replace"), story)
    got = text_of(os.path.join(STORIES, "stories260K-q8_0.gguf"), "-i", "", "-n", 40) or b""
    check_equal("stories260K-q8_0.gguf", got.decode()[:100],
                recorded[""][:100])


os.makedirs(SCRATCH, exist_ok=True)
converted = start(program("convert"), os.path.join(DATA, "llama_gqa20"), MODEL, "-q", "q8_0")
if check("convert llama_gqa20 -q q8_0", converted.returncode == 0, short(converted.stderr)):
    for test in (test_help, test_generate, test_sampling, test_limits, test_ended, test_bytes,
                 test_outputs, test_perplexity, test_against, test_edges, test_chat, test_convert,
                 test_terminal, test_stories):
        test()
end()
