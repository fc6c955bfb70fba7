#!/usr/bin/env python3
"""test_tiny.py: models/tiny.bin, the default model. It is whole, small enough for git, is what
./run takes where no model is named, and continues `def` with Python that the parser accepts."""

import json
import os
import shutil
import sys

from check import BIN, ROOT, SCRATCH, check, check_equal, end, program, short, start, write_file

sys.path.insert(0, os.path.join(ROOT, "cookbook"))
from measure import cut_body, statements  # noqa: E402

MODEL = os.path.join(ROOT, "models", "tiny.bin")
MOST_BYTES = 16 << 20
# Headers as people write them; none was looked at while the model was made.
HEADERS = ["def fib(n):\n", "def read_lines(path):\n", "def is_prime(n):\n",
           "def mean(values):\n", "def get_name(self):\n", "def parse_args(argv=None):\n",
           "def to_dict(self):\n", "def add_item(self, name, value):\n",
           "def load_config(filename, default=None):\n", "def normalize(text):\n"]
LEAST = 6  # of them; models/README.md has the share that was measured on 100 held-out ones


def test_file():
    check("small enough for git", os.path.getsize(MODEL) <= MOST_BYTES, os.path.getsize(MODEL))
    done = start(program("convert"), "--check", MODEL)
    check_equal("every checksum holds", done.returncode, 0)


def test_default():
    """Without a name, ./run takes models/tiny.bin beside itself."""
    named = start(program("run"), MODEL, "-i", "def fib", "-q")
    check("def fib goes on", named.stdout.startswith(b"def fib") and len(named.stdout) > 20,
          short(named.stdout))
    if os.path.exists(os.path.join(BIN, "models", "tiny.bin")):
        check_equal("the default model", start(program("run"), "-i", "def fib", "-q").stdout,
                    named.stdout)


def test_no_default():
    alone = os.path.join(SCRATCH, "alone", "run")
    os.makedirs(os.path.dirname(alone), exist_ok=True)
    shutil.copy(program("run"), alone)
    done = start(alone, "-i", "def fib")
    check("no model beside the program", done.returncode == 1 and
          b"models/tiny.bin: not there, expected the default model" in done.stderr,
          short(done.stderr))
    shutil.rmtree(os.path.dirname(alone))


def test_python():
    prompts = write_file(os.path.join(SCRATCH, "tiny.jsonl"),
                         "".join(json.dumps({"prompt": text}) + "\n" for text in HEADERS))
    done = start(program("run"), MODEL, "--prompts", prompts, "-n", 128, "-q")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    check_equal("a text for each header", len(rows), len(HEADERS))
    counts = [statements(row["prompt"], cut_body(row["completion"], row["end"] == "stop"))
              for row in rows]
    good = sum(bool(count and count[0] >= 2) for count in counts)
    check(f"at least {LEAST} of {len(HEADERS)} are functions of two statements", good >= LEAST,
          f"{good}: {short([row['completion'] for row in rows])}")


if __name__ == "__main__":
    test_file()
    test_default()
    test_no_default()
    test_python()
    end()
