#!/usr/bin/env python3
"""Tests ./refine: documents in and out, the pipeline, sample, decontaminate, stats, all."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from check import check, check_equal, end, short, skip, write_file
from refine_case import (PLACE, REFINE, STRICT, documents, fresh, lines, refine, refused, stats_of)

KEEP = ("sample", "--none")  # a stage that changes nothing


def test_documents():
    place = fresh("documents")
    record = {"repo": "o/n", "path": "d/a.py", "ext": "py", "language": "Python", "type": "code",
              "stars": 5, "commit_time": -7, "size": 99, "content": 'a\t"\\\n\u0000\u0001é😀\x7f'}
    odd = ' {"z" : [1, {"}": "\\"]"}] ,"content":"x", "n":1.50, "e": {} , "\\u0074": null}'
    path = lines(os.path.join(place, "a.jsonl"), record, odd, {"text": "other", "content": None},
                 {"text": "only"}, {"text": "t", "content": "c"}, "", "  \t")
    code, out, err = refine(*KEEP, path, "-q")
    got = [json.loads(line) for line in out.decode().splitlines()]
    check_equal("it ends well", (code, err), (0, ""))
    check_equal("a document goes through unchanged", got[0], record)
    check("unknown members pass byte by byte", b'"z":[1, {"}": "\\"]"}],"n":1.50,"e":{},'
          b'"\\u0074":null,' in out, short(out))
    check_equal("text is content", got[2]["content"], "only")
    check_equal("unless there is content", (got[3]["content"], got[3]["text"]), ("c", "t"))
    check_equal("size is that of the content", [d["size"] for d in got], [99, 1, 4, 1])
    check("a blank line is no document", len(got) == 4, len(got))
    again = refine(*KEEP, "-q", stdin=out)[1]
    check("what was written is read as it is", again == out)
    refused("statistics in place of what is read", 2, ["is read"], *KEEP, path, "--stats", path)
    refused("statistics that cannot be written", 1, ["none/s", "cannot create"], *KEEP, path,
            "--stats", os.path.join(place, "none", "s"))
    refused("statistics in place of the output", 2, ["written twice"], *KEEP, path, "-o",
            os.path.join(place, "x"), "--stats", os.path.join(place, "x"))
    marked = documents(*KEEP, stdin=b'\xef\xbb\xbf{"text":"a"}')
    check_equal("a byte order mark", [d["content"] for d in marked], ["a"])
    unended = documents(*KEEP, stdin=b'{"text":"a"}\n{"text":""}')
    check_equal("no line feed at the end", len(unended), 2)


def test_broken():
    bad = ["nonsense", "[1]", '"text"', "{}", '{"content": 5}', '{"content": "a", "stars": "x"}',
           '{"content": "a", "stars": -1}', '{"content": "a", "stars": 1e400}', '{"content": "a"',
           '{"content": "\\ud800"}', '{"content": "a", "content": "b"}', "\x00", "[" * 70,
           '{"content": "a", "repo": []}', '{"content": "a", "size": 0.5}']
    data = "\n".join(["", '{"text": "first"}', *bad, '{"text": "last"}']).encode()
    data += b'\n{"content": "\xff"}\n'
    code, out, err = refine(*KEEP, "-v", stdin=data, program=STRICT)
    check_equal("broken lines stop nothing", code, 0)
    check_equal("what is around them stays", [json.loads(line)["content"] for line in
                                              out.decode().splitlines()], ["first", "last"])
    check("they are counted", f"left out: {len(bad) + 1} that are no documents" in err, err)
    for number, word in ((3, "JSON byte 0"), (5, "expected an object"), (6, "content"),
                         (8, "stars"), (19, "UTF-8")):
        check(f"line {number} is named", f"stdin:{number}: " in err and word in err, err)
    quiet = refine(*KEEP, stdin=data, program=STRICT)[2]
    check("and only on request", "stdin:3" not in quiet and "--verbose names them" in quiet, quiet)
    found = stats_of(*KEEP, stdin=data)[1]
    check_equal("and in the statistics", found["broken"]["files"], len(bad) + 1)
    long_line = b'{"content": "' + b"a" * (65 << 20) + b'"}\n{"text": "b"}\n'
    code, out, err = refine(*KEEP, "-v", stdin=long_line)
    check("a line of 65 MB is left out", code == 0 and b'"b"' in out and len(out) < 100 and
          "a line of more than" in err, err)


def test_zstd():
    place = fresh("zstd")
    record = {"content": "x" * 5000 + "\n"}
    plain = lines(os.path.join(place, "a.jsonl"), *[record] * 400)
    packed = os.path.join(place, "b.jsonl.zst")
    code, _, err = refine(*KEEP, plain, "-o", packed, "-q")
    if code and "without it" in err:
        return skip("zstd", "refine was built without it")
    size = os.path.getsize(packed)
    check("it is compressed", code == 0 and size < 20000, (code, size))
    check_equal("and read again", len(documents(*KEEP, packed)), 400)
    code, out, _ = refine(*KEEP, plain, "--zstd", "-q")
    check_equal("--zstd to stdout and from stdin", len(documents(*KEEP, stdin=out)), 400)
    with open(packed, "rb") as file:
        data = file.read()
    check_equal("two files after one another", len(documents(*KEEP, stdin=data + data)), 800)
    for name, broken in (("cut off", data[:-9]), ("damaged", data[:60] + b"\0" * 40 + data[100:])):
        code, out, err = refine(*KEEP, "-v", stdin=broken, program=STRICT)
        check(f"zstd {name}: counted", code == 0 and "damaged or cut off" in err, err)


def test_outputs():
    place = fresh("outputs")
    inputs = [lines(os.path.join(place, f"{i}.jsonl"), *[{"text": f"{i} {k}"} for k in range(50)])
              for i in range(3)]
    whole = refine(*KEEP, *inputs, "-q")[1]
    for threads in (1, 2, 5):
        check(f"the same from {threads} threads", refine(*KEEP, *inputs, "-q", "-j", threads)[1]
              == whole)
    out = os.path.join(place, "out")
    os.mkdir(out)
    code = refine(*KEEP, *inputs[:2], "-o", out, "-q")[0]
    check_equal("a file for each input", (code, sorted(os.listdir(out))),
                (0, ["0.jsonl", "1.jsonl"]))
    write_file(os.path.join(out, "0.jsonl"), "old")
    refine(*KEEP, *inputs, "-o", out, "-q", "--resume")
    check_equal("--resume: what is there stays", open(os.path.join(out, "0.jsonl")).read(), "old")
    check_equal("and the rest is made", len(documents(*KEEP, os.path.join(out, "2.jsonl"))), 50)
    refused("input is output", 2, ["0.jsonl", "another name"], *KEEP, inputs[0], "-o", inputs[0])
    refused("--resume without a directory", 2, ["--resume"], *KEEP, inputs[0], "--resume")
    refused("no such file", 1, ["none.jsonl", "cannot open"], *KEEP,
            os.path.join(place, "none.jsonl"))
    refused("a directory", 1, ["expected JSON Lines"], *KEEP, place)
    refused("an unknown option", 2, ["--nothing"], *KEEP, "--nothing")
    refused("an unknown command", 2, ["unknown command"], "nothing")
    check_equal("no command", (refine()[0], refine("-h")[0], refine("sample", "-h")[0]), (2, 0, 0))
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = subprocess.run([STRICT, *KEEP, *inputs], stdout=full, stderr=subprocess.PIPE)
        check("a full disk is an error", done.returncode == 1 and b"cannot write" in done.stderr,
              done.stderr)


def test_interrupted():
    """Ctrl-C in the middle: the old file is there, nothing else."""
    place = fresh("interrupted")
    target = write_file(os.path.join(place, "out.jsonl"), "old\n")
    child = subprocess.Popen([REFINE, *KEEP, "-o", target], stdin=subprocess.PIPE,
                             stderr=subprocess.DEVNULL)
    child.stdin.write(b'{"text": "a"}\n' * 1000)
    child.stdin.flush()
    for _ in range(200):
        if len(os.listdir(place)) == 2:
            break
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    child.wait(20)
    check_equal("exit code after Ctrl-C", child.returncode, 130)
    child.stdin.close()
    check_equal("nothing is left behind", os.listdir(place), ["out.jsonl"])
    check_equal("the old output is untouched", open(target).read(), "old\n")


def test_sample():
    files = [{"path": f"{i}", "language": lang, "text": "a"} for i in range(2000)
             for lang in ("Java", "HTML", "C")]
    data = "".join(json.dumps(f) + "\n" for f in files).encode()

    def kept(*options):
        counts = {"Java": 0, "HTML": 0, "C": 0}
        for d in documents("sample", *options, stdin=data):
            counts[d["language"]] += 1
        return counts
    got = kept()
    for lang, part in (("Java", 200 / 449), ("HTML", 64 / 474), ("C", 1)):
        sigma = (2000 * part * (1 - part)) ** 0.5
        check(f"the paper's part of {lang}", abs(got[lang] - 2000 * part) <= 4 * sigma, got)
    check_equal("again the same", kept(), got)
    check("another seed, another sample", documents("sample", "-s", 1, stdin=data)
          != documents("sample", stdin=data))
    check_equal("--none", kept("--none"), {"Java": 2000, "HTML": 2000, "C": 2000})
    check_equal("ratios of 0 and 1", kept("-r", "C=0", "--ratio", "Java=1", "-r", "HTML=1"),
                {"Java": 2000, "HTML": 2000, "C": 0})
    half = kept("--none", "--other", 0.5)
    check("--other", all(880 < n < 1120 for n in half.values()), half)
    some = documents("sample", stdin=data)
    random.Random(1).shuffle(files)
    shuffled = "".join(json.dumps(f) + "\n" for f in files).encode()
    check("the order does not matter", sorted(d["path"] + d["language"] for d in some) ==
          sorted(d["path"] + d["language"] for d in documents("sample", stdin=shuffled)))
    refused("a ratio above 1", 2, ["--ratio", "from 0 to 1"], "sample", "-r", "C=2")
    refused("no ratio", 2, ["--ratio", "LANGUAGE=PART"], "sample", "-r", "C")


def test_decontaminate():
    place = fresh("bench")
    ten = "one two three four five six seven eight nine ten"
    human = lines(os.path.join(place, "h.jsonl"), {
        "task_id": "H/0", "prompt": f'def near_by(a):\n    """{ten} eleven"""\n',
        "entry_point": "near_by", "canonical_solution": "    return a\n", "test": "assert True"})
    mbpp = lines(os.path.join(place, "m.jsonl"), {
        "text": "Write it.", "code": "import re\ndef first_one(x):\n  return x",
        "test_list": ["assert first_one(1) == 1 and a and b and c and d and e and f and g"]})
    cases = [
        ("ten words in a row", "x " + ten + " y", False),
        ("in capitals, with other signs between", "X " + ten.upper().replace(" ", ", "), False),
        ("nine of them", ten.replace(" ten", " 10"), True),
        ("a definition", "def near_by(z): pass", False),
        ("in JavaScript", "function first_one(z) {}", False),
        ("a call", "near_by(1)", True),
        ("the name as a word", "it is near_by", True),
        ("a longer name", "def near_by_it(z)", True),
        ("in capitals", "def NEAR_BY(z)", True),
        ("ten words of a test", "assert first_one(1) == 1 and a and b and c and d", False),
    ]
    data = "".join(json.dumps({"path": name, "text": text}) + "\n"
                   for name, text, _ in cases).encode()
    kept = {d["path"] for d in documents("decontaminate", "-a", human, "-a", mbpp, stdin=data)}
    for name, _, stays in cases:
        check_equal(f"decontaminate: {name}", name in kept, stays)
    word = {d["path"] for d in documents("decontaminate", "-a", human, "-a", mbpp, "--entry",
                                         "word", stdin=data)}
    check_equal("--entry word", word, {"nine of them", "a longer name", "in capitals"})
    none = {d["path"] for d in documents("decontaminate", "-a", human, "-a", mbpp, "--entry",
                                         "none", stdin=data)}
    check("--entry none", {"a definition", "in JavaScript"} <= none, none)
    nine = {d["path"] for d in documents("decontaminate", "-a", human, "--words", 9, stdin=data)}
    check("--words 9", "nine of them" not in nine and "a call" in nine, nine)
    found = stats_of("decontaminate", "-a", human, stdin=data)[0]["decontaminate"]
    check_equal("reasons", {k: v["files"] for k, v in found["dropped"].items()},
                {"words in a row": 2, "entry point": 1})
    refused("no benchmark", 2, ["--against"], "decontaminate", stdin=data)
    refused("a benchmark that is none", 1, ["b.jsonl:2"], "decontaminate", "-a",
            lines(os.path.join(place, "b.jsonl"), {"prompt": "a"}, "nonsense"))
    refused("one without texts", 1, ["expected tasks"], "decontaminate", "-a",
            lines(os.path.join(place, "e.jsonl"), {"x": "a"}))
    refused("--entry", 2, ["--entry", "sometimes"], "decontaminate", "-a", human, "--entry",
            "sometimes")


def test_stats():
    place = fresh("stats")
    path = lines(os.path.join(place, "a.jsonl"), {"language": "C", "text": "a\nb\n"},
                 {"language": "C", "text": "c"}, {"language": "<&>", "text": "1234567\n"},
                 {"text": "x"}, "broken")
    svg = os.path.join(place, "bars.svg")
    code, out, err = refine("stats", path, "--svg", svg)
    rows = [line.split() for line in out.decode().splitlines()]
    check_equal("the table", (code, rows[1:]), (0, [
        ["<&>", "1", "8", "1", "57.14"], ["C", "2", "5", "2", "35.71"],
        ["unknown", "1", "1", "0", "7.14"], ["all", "4", "14", "3", "100.00"]]))
    check("what is broken", "left out: 1 " in err, err)
    picture = open(svg).read()
    check("bars as SVG", picture.startswith("<svg") and picture.rstrip().endswith("</svg>") and
          picture.count("<rect") == 4 and "&#60;&#38;&#62;" in picture, short(picture))
    run = os.path.join(place, "run.json")
    refine("sample", path, "-r", "C=0", "--stats", run, "-q")
    code, out, _ = refine("stats", "--run", run, "--svg", svg)
    check("a run", code == 0 and b"dropped sampled" in out and b"sample " in out, short(out))
    refused("no run", 1, ["a.jsonl"], "stats", "--run", path)
    refused("both", 2, ["--run"], "stats", "--run", run, path)


def test_all():
    """The chain in one process is the chain of commands."""
    place = fresh("all")
    rng = random.Random(7)
    src = os.path.join(place, "src")
    words = [f"{a}{b}" for a in ("get", "set", "load", "run", "make") for b in
             ("Name", "Value", "File", "Line", "Table", "Index")]
    for i in range(60):
        body = "".join(f"    {rng.choice(words)}_{rng.randrange(50)} = {rng.choice(words)}"
                       f"(self, {rng.randrange(9)})\n" for _ in range(40))
        text = f"import os\n\n\ndef {rng.choice(words)}{i}(self):\n{body}    return self\n"
        write_file(os.path.join(src, f"{i % 5}", f"f{i}.py"), text)
        if i % 4 == 0:
            write_file(os.path.join(src, "copy", f"g{i}.py"), text)
        write_file(os.path.join(src, "html", f"{i}.html"), f"<p>{body}</p>")
    bench = lines(os.path.join(place, "h.jsonl"), {"prompt": "x", "entry_point": "getName3"})
    code, whole, err = refine("all", src, "-a", bench, "-q")
    check_equal("all ends well", (code, err), (0, ""))
    step = refine("read", src, "-q")[1]
    known = refine("-h")[1].decode()
    for command in ("dedup", "transform", "filter", "sample", "decontaminate"):
        more = ("-a", bench) if command == "decontaminate" else ()
        if f"  {command} " in known:
            step = refine(command, *more, "-q", stdin=step)[1]
    check("it is the chain of the commands", step == whole and whole.count(b"\n") > 5,
          (step.count(b"\n"), whole.count(b"\n")))
    for threads in (1, 3):
        check(f"all from {threads} threads", refine("all", src, "-a", bench, "-q", "-j",
                                                    threads)[1] == whole)
    stages, found = stats_of("all", src, "-a", bench)
    names = list(stages)
    check_equal("the funnel", (names[:2], names[-2:]), (["read", "dedup"],
                                                        ["sample", "decontaminate"]))
    check("each stage gets what the one before has let pass", all(
        stages[a]["out"] == stages[b]["in"] for a, b in zip(names, names[1:])), found)
    check_equal("exact duplicates", stages["dedup"]["dropped"]["exact duplicate"]["files"], 15)
    left_out = stats_of("all", src, "--skip", "dedup", "--skip", "filter", "--skip", "sample",
                        "--skip", "transform")[0]
    check_equal("--skip", list(left_out), ["read"])
    refused("--skip of nothing", 2, ["--skip", "reading"], "all", src, "--skip", "reading")
    refused("all of nothing", 2, ["no input"], "all")
    env = {"TMPDIR": os.path.join(place, "nowhere")}
    code, _, err = refine("all", src, "-q", env=env)
    check("no place for temporary files", code == 1 and "TMPDIR" in err, err)


def main():
    os.makedirs(PLACE, exist_ok=True)
    for test in (test_documents, test_broken, test_zstd, test_outputs, test_interrupted,
                 test_sample, test_decontaminate, test_stats, test_all):
        begun = time.time()
        test()
        if "-t" in sys.argv:
            print(f"# {test.__name__} {time.time() - begun:.1f} s")
    shutil.rmtree(os.path.join(PLACE, "interrupted"), ignore_errors=True)
    end()


main()
