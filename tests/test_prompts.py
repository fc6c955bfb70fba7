#!/usr/bin/env python3
"""test_prompts.py: ./run --prompts. A text is what its prompt alone gives, whatever stands beside
it and however many are written at once; lines come out in order, as they went in; what cannot be a
prompt is refused with its line. With ./runcuda-emu the same on the kernels for a GPU."""

import codecs
import json
import os
import re

from check import (BIN, ROOT, SCRATCH, check, check_equal, end, program, short, skip, start,
                   write_file)

MODEL, FILE = os.path.join(SCRATCH, "prompts.gguf"), os.path.join(SCRATCH, "prompts.jsonl")
PROMPTS = ["def f(x):", "a", "for i in range(10):\n    ", "return a + b", "\u00e9t\u00e9",
           "xyz" * 9, "int main(void) {", "a"]
COUNTS = re.compile(rb"(\d+) prompts (\d+) tokens .* generated (\d+) tokens .* ([\d.]+) a pass\n")
EMU = os.path.join(BIN, "runcuda-emu")


# In JSON every byte that is no UTF-8 becomes one U+FFFD; Python would join some of them.
codecs.register_error("json", lambda wrong: ("\ufffd", wrong.start + 1))


def lines_of(prompts):
    return "".join(json.dumps({"prompt": p, "task_id": i}) + "\n" for i, p in enumerate(prompts))


def run(name, *arguments, **more):
    done = start(name, MODEL, *arguments, **more)
    if done.returncode:
        check("run " + " ".join(map(str, arguments)), False, short(done.stderr))
    return done


def together(name, *options, **more):
    """The completions of all prompts, and what stderr counts."""
    done = run(name, "--prompts", FILE, *options, **more)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    check_equal("prompts and their other members come back",
                [(r["prompt"], r["task_id"]) for r in records], list(zip(PROMPTS, range(99))))
    return [r["completion"] for r in records], records, COUNTS.search(done.stderr)


def alone(name, *options):
    texts = []
    for prompt in PROMPTS:
        text = run(name, "-i", prompt, "--no-echo", "-q", *options).stdout
        texts.append(text[:-1].decode(errors="json"))
    return texts


def test_same():
    for options in (["-n", 12], ["-n", 9, "-t", 0.9, "-s", 3, "--repeat-penalty", 1.2],
                    ["-n", 20, "--stop", "e", "--stop", "on"], ["-n", 0, "-c", 40]):
        want = alone(program("run"), *options)
        check("some are different", len(set(want)) > 2, short(want))
        for batch in 1, 3, 8, 64:
            texts, records, _ = together(program("run"), *options, "--batch", batch)
            check_equal(f"{options}, {batch} at once", texts, want)
            check("why they ended", {r["end"] for r in records} <= {"stop", "length", "context"})
            if "--stop" in options:
                check("no stop text is printed", not any("e" in t or "on" in t for t in texts))
                check("one says so", any(r["end"] == "stop" for r in records))
            if "-c" in options:
                check("one filled the context", any(r["end"] == "context" for r in records))


def test_counts():
    _, records, counted = together(program("run"), "-n", 10, "--batch", 4)
    n = sum(r["tokens"] for r in records)
    check_equal("prompts and generated tokens", (counted.group(1), counted.group(3)),
                (b"8", str(n).encode()))
    check("several tokens a pass", 2 < float(counted.group(4)) <= 4, counted.group(4))
    _, _, counted = together(program("run"), "-n", 10, "--batch", 1)
    check_equal("one a pass", counted.group(4), b"1.00")
    check_equal("-n 1 needs no pass", run(program("run"), "--prompts", FILE, "-n", 1).stderr[-12:],
                b"0.00 a pass\n")


def test_input():
    lines = '\n{"prompt": "a" , "x": [1, {}] }\t\r\n\n {"prompt":"b"}'
    done = run(program("run"), "--prompts", "-", "-n", 2, "-q", stdin=lines.encode())
    got = [json.loads(line) for line in done.stdout.splitlines()]
    check_equal("stdin, blank lines, spaces", [(r["prompt"], r.get("x")) for r in got],
                [("a", [1, {}]), ("b", None)])
    for text, words in (("", ["no prompt"]), ("[1]", ["line 1", "key prompt"]),
                        ('{"prompt": "a"}\n{"prompt": 3}', ["line 2", "key prompt: a number"]),
                        ('{"prompt": "a"}\n\n{"prompt', ["line 3", "JSON byte"]),
                        ('{"prompt": "a", "end": 1}', ["line 1", "key end"]),
                        (json.dumps({"prompt": "ab" * 900}), ["line 1", "tokens", "-c"])):
        done = start(program("run"), MODEL, "--prompts", "-", "-c", 64, "-q", stdin=text.encode())
        message = done.stderr.decode()
        check(f"refused: {text[:30]!r}", done.returncode == 1 and not done.stdout and
              message.startswith("error: ") and message.count("\n") == 1 and
              all(word in message for word in words), short(message))
    for words in (["-i", "a"], ["-m", "chat"], ["--logprobs", 2], ["--batch", 0],
                  ["--batch", 257]):
        done = start(program("run"), MODEL, "--prompts", FILE, *words)
        check_equal(f"--prompts and {words}", (done.returncode, done.stdout), (2, b""))


def test_gpu():
    """There, as many at once as the kernels treat as if each were alone."""
    if not os.path.exists(os.path.join(ROOT, EMU)):
        return skip("runcuda", "no C++17 compiler; set CXX")
    want = alone(EMU, "-n", 6, "--speculate", 0)
    for batch, memory, most in (3, "232448", 3), (8, "232448", 8), (8, "75500", 3):
        texts, _, counted = together(EMU, "-n", 6, "--batch", batch,
                                     env={"OC_EMU_SHARED": memory})
        check_equal(f"{batch} at once, {memory} bytes of shared memory", texts, want)
        check(f"at most {most} a pass", 1 < float(counted.group(4)) <= most, counted.group(4))


os.makedirs(SCRATCH, exist_ok=True)
made = start(program("convert"), "tests/data/llama_gqa20", MODEL, "-q", "bf16")
check("convert", made.returncode == 0, made.stderr.decode(errors="replace"))
write_file(FILE, lines_of(PROMPTS))
test_same()
test_counts()
test_input()
test_gpu()
end()
