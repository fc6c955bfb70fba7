#!/usr/bin/env python3
"""torture.py [-k TEXT] [--all | -n N] [--seed S]: each call of the system fails once.

tests/torture.c, loaded before a program, lets one call fail: the N-th allocation (once, or from
there on), open, read, write, fsync, rename, mmap or close, with each error that such a call has,
or with a short count. A run without faults tells how many calls there are; then comes one run for
each. Good ends are two:

    exit code 0   stdout and all files are those of the run without faults
    exit code 1   the last line, and no other, is `error: <thing>: <what>`; stdout is a beginning of
                  the right one; each file is as it was, or is right and whole; no temporary file
                  is left. Of train and evaluate, which keep journals, the next run must end with
                  the bytes that this one would have had

Never: a signal, silence, exit code 0 with an output that is lost. --all tries everything (make
faults), in an order drawn with the seed, or what OC_MINUTES allow; else a sample of N."""

import argparse
import collections
import concurrent.futures
import dataclasses
import functools
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile

import badinput_files
import crawl
from check import ROOT, SCRATCH, TESTS, Watch, check, end, program, short, skip
from tok_file import shard

PLACE = os.path.join(SCRATCH, f"torture-{os.getpid()}")
LIBRARY = os.path.join(os.path.dirname(TESTS), "torture.so")
SECONDS = 60
HOW = {"memory": ["ENOMEM", "ENOMEM+"], "open": ["EIO", "EINTR", "EMFILE"],
       "read": ["EIO", "EINTR", "EAGAIN", "short"],
       "write": ["EIO", "ENOSPC", "EINTR", "EAGAIN", "short"], "sync": ["EIO", "ENOSPC", "EINTR"],
       "rename": ["EIO", "ENOSPC"], "map": ["ENOMEM", "EAGAIN"],
       "close": ["EIO", "ENOSPC", "EINTR"]}
GROWING = (".csv", "completions.jsonl", "results.jsonl")  # the next run goes on with them


@dataclasses.dataclass
class Scenario:
    name: str
    command: list
    files: dict
    stdin: bytes = b""
    before: tuple = ()  # commands that come first, without faults
    lose: tuple = ()  # what they leave that is taken away again
    again: tuple = ()  # what is to be run after a failure: then all must be right


# --------------------------------------------------------------------------------------- scenarios
MODEL = badinput_files.Gguf().build()
LETTER = 4


def letters():
    noise = random.Random(5)
    ids = []
    for _ in range(60):
        ids += [LETTER + noise.randrange(26) for _ in range(12)] + [badinput_files.EOS]
    return ids


def sources():
    """100 files that pass the filters, some of them equal or nearly so, some with what is to be
    replaced."""
    noise = random.Random(6)
    words = [a + b for a in ("re", "un", "pre", "mis", "over", "out", "in", "trans", "sub", "co")
             for b in ("load", "name", "scribe", "ject", "form", "pose", "tain", "vert", "port")]
    files = {}
    for i in range(100):
        pick = functools.partial(noise.choice, words)
        body = [f"    {pick()} = self.{pick()}({pick()}, {pick()})  # {pick()} or {pick()}"
                for _ in range(9)]
        if i % 7 == 0:
            body.append("    mail = 'someone@somewhere.org'")
        head = ["# Copyright 2020 someone", "import os", "", "",
                f"def {pick()}_{pick()}(self, {pick()}):"]
        text = "\n".join([*head, *body, f"    return {pick()}", ""]).encode()
        if i % 10 >= 8:
            text = files["src/0/f0.py"] + (b"\nprint(os)\n" if i % 10 == 8 else b"")
        files[f"src/{i % 4}/f{i}.py"] = text
    return files


def archive(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def json_lines(records):
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def pages(text, n):
    return json_lines({"url": f"https://{text[:3]}.org/{i}", "text": f"{text} {i}"}
                      for i in range(n))


def scenarios():
    files = {"m.gguf": MODEL, "text.tok": shard(letters())}
    train = ["train", "pretrain", "text.tok", "--init", "m.gguf", "-o", "out", "--steps", "4",
             "--seq-len", "16", "--batch", "2", "--save-every", "2", "--val-fraction", "0.1", "-j",
             "1"]
    task = {"task_id": "T/0", "prompt": "def one():\n", "entry_point": "one",
            "test": "def check(f):\n    assert f() == 1\n", "canonical_solution": "    return 1\n"}
    answers = [{"task_id": "T/0", "completion": f"    return {n}\n"} for n in (1, 2)]
    lines = {"tasks.jsonl": json_lines([task]), "answers.jsonl": json_lines(answers),
             "docs.jsonl": json_lines({"content": "abc def " * n} for n in range(1, 30))}
    yield Scenario("generate", ["run", "m.gguf", "-i", "ab", "-n", "8", "-q"], files)
    yield Scenario("chat", ["run", "m.gguf", "-q", "-m", "chat", "-y", "s", "-n", "4"], files,
                   b"ab\n\"\"\"\nc\n\"\"\"\n/reset\nd\n")
    yield Scenario("encode", ["tokenizer", "encode", "m.gguf", "-i", "-"], files, b"abc xyz\n")
    yield Scenario("decode", ["tokenizer", "decode", "m.gguf"], files, b"4 5 6\n")
    yield Scenario("pack", ["tokenizer", "pack", "docs.jsonl", "-o", "x.tok", "--tokenizer",
                            "m.gguf"], {**files, **lines, "x.tok": b"old"})
    yield Scenario("vocabulary", ["tokenizer", "train", "docs.jsonl", "-o", "v.gguf", "--vocab",
                                  "272"], lines)
    yield Scenario("train", train, files, again=[*train, "--resume"])
    yield Scenario("resume", [*train, "--resume"], files, before=(train,),
                   lose=("out", "out.ckpt-000004"), again=[*train, "--resume"])
    yield Scenario("quantize", ["convert", "m.gguf", "OUT", "-q", "q8_0"],
                   {**files, "OUT": b"old"})
    yield Scenario("to hf", ["convert", "m.gguf", "OUT", "-o", "hf"], files)
    yield Scenario("from hf", ["convert", "hf", "OUT"], badinput_files.hf_directory())
    yield Scenario("from llama2.c", ["convert", "m.bin", "OUT", "--tokenizer", "tok"],
                   {"m.bin": badinput_files.llama2c(2), "tok": badinput_files.old_tokenizer()})
    yield Scenario("check", ["convert", "--check", "m.gguf"], files)
    yield Scenario("archive", ["refine", "read", "src.tar", "-o", "x.jsonl.zst", "-q", "-j", "1"],
                   {"src.tar": archive(sources())})
    yield Scenario("compressed lines", ["refine", "dedup", "src.jsonl.zst", "-o", "x.jsonl", "-q",
                                        "-j", "1"], {**sources(), "x.jsonl": b"old"},
                   before=(["refine", "read", "src", "-o", "src.jsonl.zst", "-q"],))
    yield Scenario("clean", ["refine", "all", "src", "-o", "x.jsonl", "-q", "-j", "2"], sources())
    yield Scenario("mixture", ["refine", "anneal", "--mix", "original=docs.jsonl", "snippets="
                               "answers.jsonl", "-o", "x.jsonl", "-q", "-j", "1", "--total", "1k",
                               "--stats", "s.json"], {**lines, "x.jsonl": b"old", "answers.jsonl":
                                                      lines["docs.jsonl"]})
    if shutil.which("fasttext"):
        yield Scenario("recall", ["refine", "recall", "pages.jsonl", "--seed", "seed.jsonl", "-o",
                                  "x.jsonl", "--domains", "d.jsonl", "-q", "-j", "1", "--dim", "2",
                                  "--bucket", "10", "--iterations", "1"],
                       {"pages.jsonl": pages("abc def", 9), "seed.jsonl": pages("def ghi", 3),
                        "x.jsonl": b"old"})
        web = crawl.crawl(100)[:8]
        yield Scenario("recall WARC", ["refine", "recall", "web.warc.gz", "--seed", "seed.jsonl",
                                       "-o", "x.jsonl", "-q", "-j", "1", "--dim", "2", "--bucket",
                                       "10", "--iterations", "1", "--threshold", "0.01"],
                       {"web.warc.gz": crawl.warc(web), "seed.jsonl": crawl.lines(web[:2])})
    yield Scenario("clean to stdout", ["refine", "all", "src", "-q", "-j", "1", "--stats",
                                       "s.json"], sources())
    grade = ["evaluate", "tasks.jsonl", "--completions", "answers.jsonl", "-o", "out", "-j", "1",
             "-q"]
    yield Scenario("evaluate", grade, lines, again=grade)
    others = [{"task_id": "C/0", "language": "c", "prompt": "int one(void)\n{\n",
               "tests": "int main(void) { return one() != 1; }\n"},
              {"task_id": "S/0", "language": "shell", "prompt": "one() {\n",
               "tests": "[ $(one) = 1 ]\n"}]
    texts = {"C/0": "    return %d;\n}\n", "S/0": "    echo %d\n}\n"}
    yield Scenario("evaluate C and shell", grade, {
        "tasks.jsonl": json_lines(others), "answers.jsonl": json_lines(
            {"task_id": name, "completion": text % n} for name, text in texts.items()
            for n in (1, 2))}, again=grade)
    generate = ["evaluate", "m.gguf", "tasks.jsonl", "-o", "out", "-j", "1", "-q", "--max-tokens",
                "5", "-c", "64", "--generate-only"]
    yield Scenario("answers", generate, {**files, **lines, "tasks.jsonl": json_lines([
        {"task_id": "T/0", "prompt": "abc", "tests": "", "language": "python"}])}, again=generate)


# --------------------------------------------------------------------------------------- one run
def tree(directory):
    """The content of each file by its path, and of temporary directories, which may be empty."""
    found = {}
    for place, _, files in os.walk(directory):
        if ".tmp-" in os.path.basename(place):
            found[os.path.relpath(place, directory) + "/"] = b""
        for name in files:
            path = os.path.join(place, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, directory)] = untimed(name, file.read())
    return found


def untimed(name, content):
    """A record without what the clock says."""
    if name.endswith(".csv"):
        content = b"".join(b",".join(line.split(b",")[:7]) + b"\n"
                           for line in content.splitlines(keepends=True) if line.endswith(b"\n"))
    content = re.sub(rb"^grading: median .*$", b"", content, flags=re.MULTILINE)
    return re.sub(rb'"seconds": ?[0-9.e-]+', b'"seconds": 0', content)


def prepare(scenario, directory):
    shutil.rmtree(directory, ignore_errors=True)
    for name, content in scenario.files.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    for command in scenario.before:
        start(command, directory)
    for name in scenario.lose:
        os.remove(os.path.join(directory, name))


def start(command, directory, stdin=b"", fault=None, counts=None):
    env = {**os.environ, "OMP_WAIT_POLICY": "passive", "LC_ALL": "C.UTF-8", "TMPDIR": directory}
    if fault or counts:
        env["LD_PRELOAD"] = LIBRARY
    if fault:
        env["OC_TORTURE"] = fault
    if counts:
        env["OC_TORTURE_COUNTS"] = counts
    return subprocess.run([os.path.join(ROOT, program(command[0])), *command[1:]], cwd=directory,
                          input=stdin, capture_output=True, env=env, timeout=SECONDS)


def is_error(stderr):
    """Is the last line an error, and the only one? Two libraries end the program with words of
    their own."""
    lines = stderr.decode(errors="replace").split("\n")
    errors = [line for line in lines if line.startswith("error: ")]
    last = lines[-2 if len(lines) > 1 else 0]
    if not errors and ("libgomp: " in last or "Fatal Internal Error in libarchive: " in last):
        return True
    return len(errors) == 1 and lines[-2:] == [errors[0], ""] and errors[0].count(": ") >= 2


def judge(done, before, after, right_out, right):
    """What is wrong with the end of a run, or None."""
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}: {short(done.stderr[-300:])}"
    left = sorted(name for name in after if ".tmp-" in name or "refine-" in name or
                  "recall." in name)
    if left:
        return f"left behind: {left}"
    if done.returncode == 0:
        if done.stdout != right_out:
            return f"exit code 0 and stdout {short(done.stdout)}, expected {short(right_out)}"
        wrong = [name for name in sorted({*after, *right}) if after.get(name) != right.get(name)]
        return f"exit code 0, and wrong are {wrong}: {short(done.stderr)}" if wrong else None
    if done.returncode != 1 or not is_error(done.stderr):
        return f"exit code {done.returncode}, {short(done.stderr[-300:])}, expected 1 and an error"
    if not right_out.startswith(done.stdout):
        return f"stdout {short(done.stdout)} is no beginning of {short(right_out)}"
    for name in sorted({*before, *after}):
        whole = after.get(name) in (before.get(name), right.get(name))
        if not whole and not name.endswith(GROWING):
            return f"{name} is neither the old nor the new one after {short(done.stderr[-200:])}"
    return None


class Torture:
    """A scenario, what it does without faults, and the faults there are."""

    def __init__(self, scenario, number):
        self.scenario = scenario
        self.home = os.path.join(PLACE, str(number))
        directory, counts = os.path.join(self.home, "right"), os.path.join(self.home, "counts")
        prepare(scenario, directory)
        self.before = tree(directory)
        done = start(scenario.command, directory, scenario.stdin, counts=counts)
        self.out, self.right = done.stdout, tree(directory)
        self.problem = None if done.returncode == 0 else f"without faults: {short(done.stderr)}"
        empty = [name for name, content in self.right.items() if not content]
        if empty or not (self.out or self.right != self.before):
            self.problem = f"without faults: nothing on stdout, or in {empty}, so nothing to lose"
        self.calls = {}
        if os.path.exists(counts):
            with open(counts, encoding="utf-8") as file:
                self.calls = {kind: int(n) for kind, n in (line.split() for line in file)}
        self.faults = [f"{kind}:{n}:{how}" for kind, most in self.calls.items()
                       for how in HOW[kind] for n in range(1, most + 1)]

    def run(self, fault, watch):
        """Exit code, or None, and what is wrong, or None. None where time is up."""
        if watch.over():
            return None
        directory = os.path.join(self.home, fault.replace(":", "-"))
        scenario = self.scenario
        try:
            prepare(scenario, directory)
            done = start(scenario.command, directory, scenario.stdin, fault=fault)
            wrong = judge(done, self.before, tree(directory), self.out, self.right)
            if not wrong and done.returncode and scenario.again:
                start(scenario.again, directory)
                after = tree(directory)
                other = [name for name in self.right if after.get(name) != self.right[name]]
                if other:
                    wrong = f"run again after {short(done.stderr)}: wrong are {other}"
            return done.returncode, wrong
        except subprocess.TimeoutExpired:
            return None, f"still running after {SECONDS} s"
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            watch.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-k", default="", metavar="TEXT", help="scenarios with it in the name")
    parser.add_argument("--fault", metavar="KIND:N:HOW", help="only this one")
    parser.add_argument("--all", action="store_true", default="OC_TORTURE_ALL" in os.environ)
    parser.add_argument("-n", type=int, default=int(os.environ.get("OC_FAULTS", 25)),
                        help="faults of each scenario [25, or $OC_FAULTS]")
    parser.add_argument("--seed", default=os.environ.get("OC_SEED", "1"))
    options = parser.parse_args()
    if not os.path.exists(LIBRARY):
        skip("faults", f"no {LIBRARY}: it needs glibc")
        end()
    chosen = [s for s in scenarios() if options.k in s.name]
    for number, scenario in enumerate(chosen):
        if not os.access(os.path.join(ROOT, program(scenario.command[0])), os.X_OK):
            skip(scenario.name, f"no program {scenario.command[0]}")
            continue
        torture = Torture(scenario, number)
        faults = torture.faults
        if options.fault:
            faults = [options.fault]
        else:
            draw = random.Random(options.seed + scenario.name)
            faults = draw.sample(faults, len(faults) if options.all else
                                 min(options.n, len(faults)))
        ends = collections.Counter()
        wrongs = [torture.problem] if torture.problem else []
        watch = Watch(f"{scenario.name}, faults", len(faults), len(chosen) - number)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for fault, found in zip(faults, pool.map(lambda f: torture.run(f, watch), faults)):
                if found:
                    ends[found[0]] += 1
                    wrongs += [f"{fault}: {found[1]}"] if found[1] else []
        if faults and not watch.done:
            skip(f"{scenario.name}: {len(faults)} faults", "no time is left for them")
            continue
        if len(wrongs) > 1 and options.all:
            print("\n".join(wrongs), file=sys.stderr)
        check(f"{scenario.name}: {watch.done} of {len(torture.faults)} faults, {ends[0]} without "
              f"effect, {ends[1]} errors", not wrongs, f"{len(wrongs)} wrong, {wrongs[:1]}")
    shutil.rmtree(PLACE, ignore_errors=True)
    end()


if __name__ == "__main__":
    main()
