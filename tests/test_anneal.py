#!/usr/bin/env python3
"""Tests ./refine anneal: the files that key phrases choose, and mixtures by shares."""

import json
import os

from check import ROOT, check, check_equal, end
from refine_case import STRICT, documents, fresh, lines, refine, refused, stats_of


def test_phrases():
    fresh("phrases")
    cases = [
        ("leetcode", "# from leetcode\nx = 1\n", True),
        ("in capitals", "// LeetCode 42\n", True),
        ("def solution", "def solution(a):\n    return a\n", True),
        ("a longer word", "def solutions():\n", True),
        ("class Solution", "class Solution {\n};\n", True),
        ("behind a NUL", "a\0leetcode", True),
        ("at the end", "x leetcode", True),
        ("two spaces", "class  Solution", False),
        ("a line feed", "class\nSolution", False),
        ("half of it", "leet code, def solve, class Solver", False),
        ("letters beyond ASCII", "def solut\u0131on, leetcod\u00e9", False),
        ("empty", "", False),
    ]
    data = "".join(json.dumps({"path": name, "text": text}) + "\n"
                   for name, text, _ in cases).encode()
    kept = {d["path"] for d in documents("anneal", stdin=data, program=STRICT)}
    for name, _, stays in cases:
        check_equal(f"anneal: {name}", name in kept, stays)
    kept = [d["path"] for d in documents("anneal", "--case", stdin=data)]
    check_equal("--case", kept, ["leetcode", "def solution", "a longer word", "behind a NUL",
                                 "at the end"])
    kept = [d["path"] for d in documents("anneal", "--phrase", "LEET code", "--phrase", "42",
                                         stdin=data)]
    check_equal("--phrase is in place of the paper's", kept, ["in capitals", "half of it"])
    stages = stats_of("anneal", stdin=data)[0]["anneal"]
    check_equal("phrases are counted", {k: v["files"] for k, v in stages["counts"].items()},
                {"leetcode": 4, "def solution": 2, "class solution": 1})
    check_equal("the reason", list(stages["dropped"]), ["no key phrase"])
    refused("an empty phrase", 2, ["--phrase", "is empty"], "anneal", "--phrase", "", stdin=data)
    for option, value in (("share", "a=1"), ("total", "1GB"), ("repeat", "2"), ("tokenizer", "x")):
        refused(f"--{option} without --mix", 2, [f"--{option}", "--mix"], "anneal",
                f"--{option}", value, stdin=data)


def parts(place):
    """Files of the four parts: 4000 bytes of content in each document of the first, 500 in the
    others, and how many bytes of content each part has."""
    count = {"original": (400, 4000), "algorithmic": (1000, 500), "snippets": (300, 500),
             "textbooks": (100, 500)}
    words = []
    for part, (n, size) in count.items():
        path = os.path.join(place, part + ".jsonl")
        lines(path, *[{"path": f"{part}/{i}", "text": part[0] * size} for i in range(n)])
        words.append(f"{part}={path}")
    return words, {part: n * size for part, (n, size) in count.items()}


def sizes(found):
    total = {}
    for d in found:
        part = d["path"].split("/")[0]
        total[part] = total.get(part, 0) + len(d["text"])
    return total


def mixed(*words):
    code, out, err = refine("anneal", "--mix", *words, "-q")
    check_equal(f"--mix {len(words)} words", code, 0)
    return [json.loads(line) for line in out.decode().splitlines()], err


def test_shares():
    place = fresh("mix")
    words, have = parts(place)
    found, err = mixed(*words, "--total", "1MB")
    got = sizes(found)
    want = {"original": 840000, "algorithmic": 124000, "snippets": 27000, "textbooks": 9000}
    check("the paper's shares, to a document", all(
        0 <= want[p] - got[p] < (4000 if p == "original" else 500) for p in want) and not err,
        (got, err))
    check_equal("a document comes once", len({d["path"] for d in found}), len(found))
    for n in (4, 2, 1):  # any beginning has about the same shares
        some = sizes(found[:len(found) // n])
        check(f"the first 1/{n}", all(abs(some[p] - want[p] / n) <= 4500 for p in want), some)
    plain = refine("anneal", "--mix", *words, "--total", "1MB", "-q")[1]
    for j in (1, 3):
        check(f"the same from {j} threads", refine(
            "anneal", "--mix", *words, "--total", "1MB", "-q", "-j", j)[1] == plain)
    check("another seed, another choice", mixed(*words, "--total", "1MB", "-s", 7)[0] != found)
    more = {d["path"] for d in mixed(*words, "--total", "1.2MB")[0]}
    check("a larger total keeps what a smaller one does", {d["path"] for d in found} <= more)
    found, _ = mixed(*words[:2], "--share", "original=1", "--share", "algorithmic=3", "--total",
                     "400k")
    check_equal("own shares", sizes(found), {"original": 100000, "algorithmic": 300000})
    own = [words[0], "mine=" + words[1].split("=")[1]]
    found, _ = mixed(*own, "--share", "mine=16", "--total", "100kB")
    check_equal("an own part", sizes(found), {"original": 84000, "algorithmic": 16000})
    found, _ = mixed(*words[:2], "--share", "algorithmic=0", "--total", "100kB")
    check_equal("a share of 0", sizes(found), {"original": 100000})
    found, _ = mixed(words[0], words[0], "--total", "3MB")
    check_equal("a part of two files", sizes(found), {"original": 3000000})


def test_short():
    place = fresh("mix")
    words, have = parts(place)
    found, err = mixed(*words)
    got = sizes(found)
    least = have["original"] / 0.84  # the part that is short first
    check("without --total: all that no part is short of", got["original"] == have["original"] and
          not err and 0 <= 0.027 * least - got["snippets"] < 500, (got, err))
    found, err = mixed(*words, "--total", "8MB")
    got = sizes(found)
    check_equal("what is short is used once", (got["original"], got["snippets"], got["textbooks"]),
                (1600000, 150000, 50000))
    check("and said", "short: original has 1,600,000 bytes, used 1,600,000, of 6,720,000 wanted"
          in err and "short: textbooks" in err and "short: snip" in err, err)
    found, err = mixed(*words, "--total", "8MB", "--repeat", 5)
    got = sizes(found)
    want = {"original": 6720000, "algorithmic": 992000, "snippets": 216000, "textbooks": 72000}
    check("--repeat", not err and all(0 <= want[p] - got[p] < 4000 for p in want), (got, err))
    times = {}
    for d in found:
        times[d["path"]] = times.get(d["path"], 0) + 1
    check_equal("each as often as another, or once more", {
        times.get(f"original/{i}", 0) for i in range(400)}, {4, 5})
    found, err = mixed(*words, "--total", "8MB", "--repeat", 2)
    check_equal("no more often than asked for", sizes(found)["original"], 3200000)
    stats = os.path.join(place, "stats.json")
    refine("anneal", "--mix", *words, "--total", "8MB", "--stats", stats, "-q")
    with open(stats, encoding="utf-8") as file:
        told = json.load(file)
    first = told["parts"][0]
    check_equal("the statistics", (told["unit"], first["part"], first["size_in"], first["wanted"],
                                   first["size"], first["documents"], first["short"]),
                ("bytes", "original", 1600000, 6720000, 1600000, 400, True))


def test_lines():
    """Lines are copied as they are; what is broken is left out."""
    place = fresh("mix")
    odd = ' {"z" : 1.50, "text":"\\u0061"} '
    path = lines(os.path.join(place, "a.jsonl"), "nonsense", odd, "", '{"text": "b"}', "[1]")
    marked = os.path.join(place, "b.jsonl")
    with open(marked, "wb") as file:
        file.write(b'\xef\xbb\xbf{"text":"c"}\r\n{"text":"d"}')
    code, out, err = refine("anneal", "--mix", f"original={path}", f"original={marked}",
                            program=STRICT)
    want = (odd + '\n{"text": "b"}\n{"text":"c"}\r\n{"text":"d"}\n').encode()
    check_equal("lines are copied", (code, out), (0, want))
    check("broken ones are counted", "left out: 2 that are no documents" in err, err)
    out = os.path.join(place, "mix.jsonl")
    code, _, err = refine("anneal", "--mix", f"original={path}", "-o", out, "-q")
    check("to a file", code == 0 and open(out).read() == odd + '\n{"text": "b"}\n', err)
    model = os.path.join(ROOT, "models", "tiny.bin")
    if os.path.exists(model):
        code, _, err = refine("anneal", "--mix", f"original={path}", "--tokenizer", model,
                              "--total", 2)
        check("tokens", code == 0 and "tokens" in err, err)
    empty = lines(os.path.join(place, "e.jsonl"), "nonsense")
    refused("a part without documents", 1, ["nothing in it", "snippets"], "anneal", "--mix",
            f"original={path}", f"snippets={empty}")
    code, out, err = refine("anneal", "--mix", f"original={path}", f"snippets={empty}", "--total",
                            100, "-q", program=STRICT)
    check("is short where a total is given", code == 0 and "short: snippets has 0 bytes" in err,
          (code, err))
    refused("no files", 2, ["--mix", "PART=FILE"], "anneal", "--mix")
    refused("a file without a part", 2, ["--mix", "PART=FILE"], "anneal", "--mix", path)
    refused("an unknown part", 2, ["mine", "--share"], "anneal", "--mix", f"mine={path}")
    refused("a share of nothing", 2, ["--share", "mine=3"], "anneal", "--mix", f"original={path}",
            "--share", "mine=3")
    refused("no number", 2, ["--share", "much"], "anneal", "--mix", f"original={path}", "--share",
            "original=much")
    refused("no share above 0", 2, ["--share", "0"], "anneal", "--mix", f"original={path}",
            "--share", "original=0")
    for total in ("much", "-5", "5X", "nan", "1e99", "", "5GBB"):
        refused(f"--total '{total}'", 2, ["--total", "200GB"], "anneal", "--mix",
                f"original={path}", "--total", total)
    refused("a file that is not there", 1, ["cannot open"], "anneal", "--mix", "original=none")
    refused("a pipe", 1, ["read twice"], "anneal", "--mix", "original=/dev/null")
    refused("the output is an input", 2, ["to be written"], "anneal", "--mix", f"original={path}",
            "-o", path)
    refused("the statistics are an input", 2, ["to be written"], "anneal", "--mix",
            f"original={path}", "--stats", path)
    refused("the output cannot be written", 1, ["none/x", "cannot create"], "anneal", "--mix",
            f"original={path}", "-o", os.path.join(place, "none", "x"))


for test in (test_phrases, test_shares, test_short, test_lines):
    test()
end()
