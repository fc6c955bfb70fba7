#!/usr/bin/env python3
"""tokenizer.py [DIR]: `make bench-tokenizer`: how long encoding takes, from 1 KB to 10 MB of text.

The text is the Python in DIR, Python's own library where none is named. A vocabulary as large as
OpenCoder's is learned from the first 40 MB of it; then ./tokenizer encode turns beginnings of the
text into ids. Processor time, median of 5 runs, the start of the program, the loading of the
vocabulary and the printing of the ids included; MB/s without the time that 1 KB takes, - where too
little is left to tell. The last rows are texts that a careless tokenizer takes quadratic time for.
With the module sentencepiece (pip), the same vocabulary in the library that most models use, the
call alone; it cuts no words, and so finds other ids."""

import os
import resource
import shutil
import statistics
import sys
import tempfile

from common import finish, processor

VOCABULARY, LEARNED, LARGEST_FILE, RUNS = 96640, 40_000_000, 200_000, 5
SIZES = [1000, 10_000, 100_000, 1_000_000, 10_000_000]
HOSTILE = {"one letter": b"a", "blanks": b" ", "line ends": b"\n", "digits": b"1",
           "half a character": b"\xe2", "words without blanks": "语言模型".encode()}


def text_of(directory):
    """The UTF-8 files among its Python files, joined; enough of them to learn from."""
    text = bytearray()
    for place, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted(name for name in names if name.endswith(".py")):
            with open(os.path.join(place, name), "rb") as file:
                content = file.read(LARGEST_FILE)
            try:
                content.decode()
            except UnicodeDecodeError:
                continue
            text += content if b"\0" not in content else b""
        if len(text) >= LEARNED:
            break
    if len(text) < LEARNED:
        sys.exit(f"error: {directory}: {len(text)} bytes of Python, expected {LEARNED} or more")
    return bytes(text)


def spent(who, function):
    """Median processor time of a call; who: RUSAGE_CHILDREN or RUSAGE_SELF."""
    def now():
        usage = resource.getrusage(who)
        return usage.ru_utime + usage.ru_stime

    times = []
    for _ in range(RUNS):
        begun = now()
        function()
        times.append(now() - begun)
    return statistics.median(times)


def peer(model):
    try:
        import sentencepiece
    except ImportError:
        return None
    return sentencepiece.SentencePieceProcessor(model_file=model)


def measure(home, text):
    vocabulary, model, path = (os.path.join(home, name) for name in ("v.gguf", "v.model", "t.py"))
    with open(path, "wb") as file:
        file.write(text[:LEARNED].rpartition(b"\n")[0])
    finish("./tokenizer", "train", path, "-o", vocabulary, "--model", model, "--vocab", VOCABULARY)
    library = peer(model)

    def rate(size, seconds):
        return f"{size / seconds / 1e6:8.1f}" if size and seconds > 0.02 else f"{'-':>8}"

    def row(name, content, start):
        with open(path, "wb") as file:
            file.write(content)
        seconds = spent(resource.RUSAGE_CHILDREN,
                        lambda: finish("./tokenizer", "encode", vocabulary, "-f", path))
        line = f"{name:26} {seconds:8.3f} {rate(len(content), seconds - start)}"
        if library:
            words = content.decode(errors="ignore")
            theirs = spent(resource.RUSAGE_SELF, lambda: library.encode(words))
            line += f"   {theirs:8.3f} {rate(len(words.encode()), theirs)}"
        print(line, flush=True)
        return seconds

    print(f"{'text':26} {'CPU s':>8} {'MB/s':>8}" + "   sentencepiece CPU s, MB/s" *
          bool(library))
    start = row(f"{SIZES[0]} bytes", text[:SIZES[0]], 0)
    for size in SIZES[1:]:
        row(f"{size} bytes", text[:size], start)
    for name, unit in HOSTILE.items():
        row(f"1 MB: {name}", unit * (1_000_000 // len(unit)), start)


def main():
    directory = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.__file__)
    home = tempfile.mkdtemp()
    print(f"{processor()}; vocabulary of {VOCABULARY}")
    try:
        measure(home, text_of(directory))
    finally:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
