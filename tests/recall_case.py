"""recall_case.py: what the tests of ./refine recall share: a program that stands for fastText, so
that every decision is known, and short ways to run the command.

The stand-in scores a page by its words: p0300 is 0.3; without such a word 0.9 where a word topicX
was in the seed, else 0.1. Its model is a list of those words."""

import gzip
import json
import os
import shutil
import subprocess
import sys

import check
import crawl
from refine_case import STRICT, fresh, refine

PLACE = fresh(os.path.basename(sys.argv[0]).removesuffix(".py"))  # tests run side by side
REAL = shutil.which("fasttext")

STUB = f"""#!{sys.executable} -IS
import os, re, sys, time
words = sys.argv[1:]
if words[0] == "supervised":
    given = dict(zip(words[1::2], words[2::2]))
    text = open(given["-input"]).read()
    if "cannotlearn" in text:
        sys.exit("made to fail")
    if "sleepforever" in text:
        print(os.getpid(), file=sys.stderr, flush=True)
        time.sleep(100)
    code = [l for l in text.splitlines() if l.startswith("__label__code ")]
    other = [l for l in text.splitlines() if l.startswith("__label__other ")]
    assert len(code) + len(other) == len(text.splitlines()), text
    topics = sorted(set(re.findall(r"\\btopic\\w*", " ".join(code))))
    with open(given["-output"] + ".bin", "w") as file:
        print(" ".join(topics), file=file)
        print(len(code), len(other), file=file)
        print(" ".join(words), file=file)
    open(given["-output"] + ".vec", "w").close()
else:
    assert words[0] == "predict-prob" and words[2:] == ["-", "2"], words
    topics = set(open(words[1]).readline().split())
    for line in sys.stdin:
        told = re.search(r"\\bp(\\d{{4}})\\b", line)
        p = int(told.group(1)) / 1000 if told else 0.9 if topics & set(line.split()) else 0.1
        if "diehere" in line:
            sys.exit(1)
        if "garbagehere" in line:
            print("nonsense", flush=True)
        elif p == 0.7:  # fastText may leave out a label
            print("__label__other 0.3", flush=True)
        else:
            print(f"__label__code {{p:.6g}} __label__other {{1 - p:.6g}}", flush=True)
"""
FAKE = check.write_file(os.path.join(PLACE, "fake fasttext"), STUB)
os.chmod(FAKE, 0o755)


def put(name, data):
    return check.write_file(os.path.join(PLACE, name), data)


def pages(name, *records):
    """JSON Lines of (url, text) pairs; None: no url."""
    return put(name, "".join(json.dumps({"text": text, **({"url": url} if url else {})}) + "\n"
                             for url, text in records))


SEED = pages("seed.jsonl", ("https://seed.org/1", "topicone def f(x): return x"))


def run(*words, stub=True, program=None, env=None):
    """Exit code, documents and messages; the seed is SEED where none is given."""
    more = ["--fasttext", FAKE] if stub else []
    if not any(str(word).startswith(("--seed", "--model")) for word in words):
        more += ["--seed", SEED]
    code, out, err = refine("recall", *words, *more, "-j", 1, program=program or STRICT, env=env)
    try:
        return code, [json.loads(line) for line in out.decode().splitlines()], err
    except ValueError as error:
        return code, [], f"{err} {error}"


def recalled(*words, **more):
    """The documents, of a run that must end well."""
    code, found, err = run(*words, "-q", **more)
    if code or err:
        check.check(f"recall {words} ends well", False, f"exit code {code}: {err.strip()}")
    return found


MODEL = put("topicone.bin", "topicone\n")  # what the stand-in learns from SEED


def figures(*words):
    """The statistics of each iteration, and all of them."""
    path = os.path.join(PLACE, "stats.json")
    recalled(*words, "--stats", path)
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    return found["stages"], found


def pack(program, data):
    """Compressed by a program of the distribution, or None where it is missing."""
    if not shutil.which(program):
        return None
    return subprocess.run([program, "-c"], input=data, capture_output=True, check=True).stdout


def one(text, url="https://a.org/1", **more):
    """A record with an HTML page, and one like it behind it that must come through."""
    return crawl.record(url, crawl.answer(text, **more))


CODE = b"<p>p0900 code</p>"


def has_libraries():
    """Was refine built with zlib and libxml2?"""
    code, found, _ = run(put("probe.warc.gz", gzip.compress(one(CODE))), "--model", MODEL, "-q")
    return code == 0 and len(found) == 1
