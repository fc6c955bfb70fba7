#!/usr/bin/env python3
"""Tests ./refine dedup: keys, ranks, levels, emit | sort | group, and the rate at which planted
near duplicates are found, which must be the one that the formula of LSH predicts."""

import hashlib
import json
import os
import random
import subprocess

from check import check, check_equal, end, short
from refine_case import STRICT, documents, fresh, lines, refine, refused, stats_of

PLACE = fresh("dedup")


def doc(content, repo="r", path="p", stars=0, commit_time=0):
    return {"repo": repo, "path": path, "stars": stars, "commit_time": commit_time,
            "content": content}


def text_of(documents_):
    return "".join(json.dumps(d) + "\n" for d in documents_).encode()


def kept(records, *options):
    return [d["path"] for d in documents("dedup", *options, stdin=text_of(records))]


def around_sort(records, *options):
    """The same by --emit, sort, --group and --drop, with the input in three parts."""
    pairs = os.path.join(PLACE, "pairs")
    parts = [text_of(records[i::3]) for i in range(3)]
    if "repository" in options:  # whole repositories only
        parts = [text_of([d for d in records if len(d["repo"]) % 3 == i]) for i in range(3)]
    keys = b"".join(refine("dedup", "--emit", *options, "-q", stdin=part)[1] for part in parts)
    ordered = subprocess.run(["sort"], input=keys, capture_output=True, check=True,
                             env={"LC_ALL": "C", "PATH": os.environ["PATH"]}).stdout
    code = refine("dedup", "--group", "-o", pairs, "-q", stdin=ordered)[0]
    check_equal("--group ends well", code, 0)
    return [d["path"] for d in documents("dedup", "--drop", pairs, *options,
                                         stdin=text_of(records))]


def test_sha256():
    """--emit shows the first half of the digest: every length around the blocks of 64 bytes."""
    rng = random.Random(3)
    texts = ["".join(chr(rng.randrange(1, 127)) for _ in range(n))
             for n in (*range(1, 130), 1000, 65536)]
    out = refine("dedup", "--exact", "--emit", "-q", stdin=text_of([doc(t) for t in texts]))[1]
    got = [line[1:33] for line in out.decode().splitlines()]

    def half(text):
        digest = hashlib.sha256(text.encode()).digest()
        return "".join(digest[i:i + 8][::-1].hex() for i in (0, 8))  # as little-endian numbers
    check_equal("SHA-256", got, [half(t) for t in texts])


def test_ranks():
    group = [doc("same\n", "r1", "few", 1, 9), doc("same\n", "r2", "old", 5, 3),
             doc("other\n", "r3", "other"), doc("same\n", "r4", "best", 5, 4),
             doc("same\n", "r5", "none", 0, 99)]
    check_equal("most stars, then the latest commit", kept(group, "--exact"), ["other", "best"])
    check_equal("for near duplicates too", kept(group, "--near"), ["other", "best"])
    check_equal("around a sort", around_sort(group, "--exact"), ["other", "best"])
    equal = [doc("same\n", "r", name, 1, 1) for name in ("a", "b", "c")]
    first = kept(equal)
    check("equal ranks: one stays", len(first) == 1, first)
    check_equal("the same one in any order", kept(equal[::-1]), first)
    twice = [doc("same\n"), doc("same\n"), doc("x")]
    check_equal("a line given twice", [kept(twice), around_sort(twice)], [["p", "p"]] * 2)
    near = " ".join(f"word{i}" for i in range(50))
    spaces = [doc(near, path="a"), doc(near.replace(" ", "\n  "), path="b", stars=1)]
    check_equal("other white space is a near duplicate", [kept(spaces), kept(spaces, "--exact")],
                [["b"], ["a", "b"]])
    turned = [doc(near, path="a"), doc(" ".join(near.split()[::-1]), path="b")]
    check_equal("the same words in another order are near duplicates only word by word",
                [len(kept(turned)), len(kept(turned, "--ngram", 1))], [2, 1])
    for a, b in (("", "\n"), ("+", "-"), ("a b", "a c"), ("a", "A")):
        check_equal(f"{a!r} and {b!r} differ", len(kept([doc(a), doc(b)])), 2)
    old = [doc("same", path="a", commit_time=-5), doc("same", path="b", commit_time=-4)]
    check_equal("times before 1970", [kept(old), around_sort(old)], [["b"], ["b"]])
    dropped = stats_of("dedup", stdin=text_of(group + spaces))[0]["dedup"]["dropped"]
    check_equal("reasons", {k: v["files"] for k, v in dropped.items()},
                {"exact duplicate": 3, "near duplicate": 1})


def words(rng, n):
    return ["".join(rng.choice("abcdefghijklmnop") for _ in range(9)) for _ in range(n)]


def planted(rng, n_pairs, jaccard, n_words=204):
    """Pairs that share a beginning such that of their 5-grams, all different, they share J; the
    true J of the pair is returned too."""
    grams = n_words - 4
    shared = round(2 * grams * jaccard / (1 + jaccard))
    records = []
    for i in range(n_pairs):
        a = words(rng, n_words)
        b = a[:shared + 4] + words(rng, grams - shared)
        records += [doc(" ".join(a), path=f"{i}a"), doc(" ".join(b), path=f"{i}b")]
    rng.shuffle(records)
    return records, shared / (2 * grams - shared)


def test_rate():
    rng = random.Random(11)
    for bands, rows in ((16, 128), (20, 10), (9, 3)):
        for jaccard in (0.5, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 1.0):
            records, j = planted(rng, 150, jaccard)
            chance = 1 - (1 - j ** rows) ** bands
            found = 300 - len(kept(records, "--near", "--bands", bands, "--rows", rows))
            sigma = (150 * chance * (1 - chance)) ** 0.5
            check(f"{bands} bands x {rows}, J {j:.3f}: found {found} of 150",
                  abs(found - 150 * chance) <= 4 * sigma + 0.5,
                  f"expected {150 * chance:.1f} +- {4 * sigma:.1f}")


def corpus(rng, n):
    """Files in repositories with exact and near duplicates, and some lines twice."""
    records = []
    for i in range(n):
        repo, stars, time = f"r{'x' * rng.randrange(9)}", rng.randrange(3), rng.randrange(3)
        a = words(rng, 120)
        records.append(doc(" ".join(a), repo, f"a{i}", stars, time))
        if i % 3 == 0:
            b = a[:]
            b[rng.randrange(120)] = "changed"
            records.append(doc(" ".join(b), f"q{'y' * rng.randrange(7)}", f"b{i}",
                               rng.randrange(3), rng.randrange(3)))
        if i % 5 == 0:
            records.append({**records[-1], "path": f"c{i}", "stars": rng.randrange(3)})
        if i % 7 == 0:
            records.append(records[-1])
    copied = [{**d, "repo": "the copy"} for d in records if d["repo"] == "rxxx"]
    rng.shuffle(records)
    return records + copied


def test_same_result():
    rng = random.Random(5)
    records = corpus(rng, 150)
    path = lines(os.path.join(PLACE, "c.jsonl"), *records)
    for level in ("file", "repository", "chunk"):
        for kind in ("--exact", "--near"):
            options = (kind, "--level", level, "--bands", 20, "--rows", 5, "--chunk-bytes", 300)
            memory = kept(records, *options)
            check(f"{level} {kind}: some go, some stay", level == "repository" and
                  kind == "--exact" or 20 < len(memory) < len(records), len(memory))
            check_equal(f"{level} {kind}: around a sort the same", around_sort(records, *options),
                        memory)
            check_equal(f"{level} {kind}: from a file the same",
                        [d["path"] for d in documents("dedup", *options, path)], memory)
            check_equal(f"{level} {kind}: for one thread and the sanitizers the same",
                        [d["path"] for d in documents("dedup", *options, "-j", 1, program=STRICT,
                                                      stdin=text_of(records))], memory)


def test_levels():
    rng = random.Random(9)
    common = " ".join(words(rng, 60))
    files = [doc(f"{common} {i}", "fork" if i > 4 else "origin", f"f{i % 5}", int(i <= 4))
             for i in (0, 1, 2, 3, 4)]
    forked = [{**d, "repo": "fork", "stars": 0} for d in files]
    other = [doc(" ".join(words(rng, 60)), "other", "o")]
    check_equal("a repository and its copy", [d["repo"] for d in documents(
        "dedup", "--level", "repository", stdin=text_of(files + other + forked[::-1]))],
        ["origin"] * 5 + ["other"])
    check("one file less is another repository", len(kept(files + forked[1:], "--exact", "--level",
                                                          "repository")) == 9)
    lines_ = ["".join(f"{w} " for w in words(rng, 9)) + "\n" for _ in range(12)]
    chunks = [doc("".join(lines_), path="whole", stars=1),
              doc("".join(lines_[:6]) + "unlike any of the others " * 9 + "\n", path="part")]
    got = documents("dedup", "--exact", "--level", "chunk", "--chunk-bytes", 64,
                    stdin=text_of(chunks))
    check_equal("chunks: what was seen is cut out", [d["content"] for d in got],
                ["".join(lines_), chunks[1]["content"][len("".join(lines_[:6])):]])
    short_lines = [f"line {i:04}\n" for i in range(22)]
    two = [doc("".join(short_lines[:14]), path="a", stars=1),
           doc("".join(short_lines[:6] + short_lines[14:]), path="b")]
    got = documents("dedup", "--exact", "--level", "chunk", "--chunk-bytes", 64, stdin=text_of(two))
    check_equal("a chunk has that many bytes at least: 6 equal lines of 7 are none",
                [d["content"] for d in got], [d["content"] for d in two])
    long = "é" * 1000
    got = documents("dedup", "--level", "chunk", "--chunk-bytes", 65, stdin=text_of([doc(long)]))
    check("characters are not cut in two", long.startswith(got[0]["content"]), short(got))


def test_errors():
    good = lines(os.path.join(PLACE, "g.jsonl"), doc("a"))
    refused("a level that is none", 2, ["--level", "'folder'"], "dedup", "--level", "folder", good)
    refused("too many functions", 2, ["--bands", "65536"], "dedup", "--bands", 4096, "--rows", 17,
            good)
    refused("no bands", 2, ["--bands"], "dedup", "--bands", 0, good)
    refused("two of a kind", 2, ["--emit, --group, --drop"], "dedup", "--emit", "--group", good)
    refused("--group on documents", 1, ["g.jsonl:1", "--emit"], "dedup", "--group", good)
    refused("--drop with documents", 1, ["g.jsonl:1", "--group"], "dedup", "--drop", good, good)
    refused("--resume", 2, ["--resume"], "dedup", "--resume", good)
    refused("input is output", 2, ["another name"], "dedup", good, "-o", good)
    code, out, err = refine("dedup", "-q", stdin=b"x\n" + text_of([doc("a")]), program=STRICT)
    check("broken lines are left out", code == 0 and out.count(b"\n") == 1, err)
    check_equal("nothing in, nothing out", refine("dedup", "-q", program=STRICT)[:2], (0, b""))


for test in (test_sha256, test_ranks, test_rate, test_same_result, test_levels, test_errors):
    test()
end()
