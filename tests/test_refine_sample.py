#!/usr/bin/env python3
"""Tests the budgets of ./refine sample; its ratios are in test_refine.py."""

import json
import os
import random

from check import check, check_equal, end, write_file
from refine_case import STRICT, documents, fresh, lines, refine, refused, stats_of


def corpus():
    rng = random.Random(3)
    return [{"repo": f"r{i % 7}", "path": f"{i}.x", "language": language,
             "text": "a" * rng.randrange(1, 2000)}
            for i in range(1500) for language in ("Java", "HTML", "C", "Python")]


def by_language(found):
    total = {}
    for d in found:
        text = d.get("text") or d["content"]
        total[d["language"]] = total.get(d["language"], 0) + len(text)
    return total


def names(found):
    return {(d["language"], d["path"]) for d in found}


def main():
    files = corpus()
    have = by_language(files)
    path = lines(os.path.join(fresh("sample"), "a.jsonl"), *files)

    def sampled(*words, **more):
        return documents("sample", *words, **({} if more else {"program": STRICT}), **more)

    found = sampled("--none", "--budget", "C=500kB", "--budget", "Java=400Ki", path)
    got = by_language(found)
    check("budgets are kept to a file", 498000 < got["C"] <= 500000 and
          409600 - 2000 < got["Java"] <= 409600, got)
    check_equal("what has none is whole", (got["HTML"], got["Python"]),
                (have["HTML"], have["Python"]))
    check("the same from stdin, from any number of threads", all(
        documents("sample", "--none", "--budget", "C=500kB", "--budget", "Java=400Ki", "-j", j,
                  stdin=open(path, "rb").read()) == found for j in (1, 3)))
    turned = files[:]
    random.Random(4).shuffle(turned)
    other = lines(os.path.join(fresh("turned"), "b.jsonl"), *turned)
    check("the order does not matter", names(sampled("--none", "--budget", "C=500kB", "--budget",
                                                     "Java=400Ki", other)) == names(found))
    more = sampled("--none", "--budget", "C=600kB", "--budget", "Java=500Ki", path)
    check("a larger budget keeps what a smaller one does", names(found) <= names(more))
    check("another seed, others", names(sampled("--none", "--budget", "C=500kB", "--budget",
                                                "Java=400Ki", "-s", 3, path)) != names(found))

    plain = by_language(sampled(path))
    got = by_language(sampled("--budget", "C=500kB", path))
    check_equal("ratios stay beside a budget", {k: v for k, v in got.items() if k != "C"},
                {k: v for k, v in plain.items() if k != "C"})
    got = by_language(sampled("--budget", "Java=1MB", path))
    check("a budget is in place of a ratio", 998000 < got["Java"] <= 1000000, got)
    edge = by_language(sampled("--none", "--budget", f"C={have['C']}", path))["C"]
    under = by_language(sampled("--none", "--budget", f"C={have['C'] - 1}", path))["C"]
    check("all of it, and a byte less", edge == have["C"] and have["C"] - 2001 < under < edge,
          (edge, under, have))
    check_equal("a budget of 0", by_language(sampled("--budget", "C=0", path)).get("C"), None)
    code, _, err = refine("sample", "--budget", "C=1GB", path)
    check("what is short is said", code == 0 and "short: C has" in err, err)

    got = by_language(sampled("--none", "--total", "2MB", path))
    factor = 2e6 / sum(have.values())
    check("--total: all by the same factor", all(
        0 <= have[k] * factor - got[k] < 2000 for k in have), got)
    got = by_language(sampled("--total", "2MB", path))
    factor = 2e6 / sum(plain.values())
    check("after the ratios", all(0 <= plain[k] * factor - got[k] < 2000 for k in have), got)
    got = by_language(sampled("--total", "2MB", "--budget", "Python=40%", "--budget", "C=10%",
                              "--none", path))
    factor = 1e6 / (have["Java"] + have["HTML"])
    want = {"Python": 8e5, "C": 2e5, "Java": have["Java"] * factor, "HTML": have["HTML"] * factor}
    check("parts of it", all(0 <= want[k] - got[k] < 2000 for k in have), (got, want))
    check("a total that is not reached changes nothing",
          sampled("--total", "1GB", path) == sampled(path))
    stages = stats_of("sample", "--total", "2MB", path)[0]
    check_equal("it is one stage", list(stages), ["sample"])

    texts = "".join(json.dumps({"text": f"{i} " + "b" * 98}) + "\n" for i in range(1000)).encode()
    got = sampled("--total", "50k", stdin=texts)
    check("documents without names are drawn by content", 480 < len(got) < 520, len(got))
    got = sampled("--none", "--other", 0.5, stdin=texts)
    check("by ratio, too", 430 < len(got) < 570, len(got))
    twins = json.dumps({"path": "a", "language": "C", "text": "x" * 60}) + "\n"
    got = sampled("--budget", "C=100", stdin=(twins * 2).encode())
    check_equal("who draws the same goes together", len(got), 0)

    refused("a budget without a size", 2, ["--budget", "LANGUAGE=SIZE"], "sample", "--budget", "C")
    refused("an odd one", 2, ["--budget", "200GB"], "sample", "--budget", "C=lots")
    refused("percent of nothing", 2, ["--budget", "--total"], "sample", "--budget", "C=5%")
    refused("more than all", 2, ["--budget", "from 0 to 100"], "sample", "--budget", "C=101%",
            "--total", "1M")
    refused("budgets above the total", 2, ["--budget", "--total"], "sample", "--budget", "C=2M",
            "--total", "1M")
    refused("the output is an input", 2, ["to be written"], "sample", "--total", "1M", path, "-o",
            path)
    refused("budgets of each file", 2, ["-o", "directory"], "sample", "--total", "1M", path, "-o",
            os.path.dirname(path))
    in_all()


def in_all():
    """The chain in one process is the chain of commands, with budgets too."""
    place = fresh("sample-all")
    for i in range(200):
        write_file(os.path.join(place, "src", f"{i}.py"), f"x = {i}\n" + "# some words\n" * (i % 9))
        write_file(os.path.join(place, "src", f"{i}.c"), f"int x = {i};\n" * (1 + i % 7))
    src, words = os.path.join(place, "src"), ("--budget", "C=4k", "--total", "12k")
    skip = ("--skip", "filter", "--skip", "transform")
    step = refine("read", src, "-q")[1]
    step = refine("dedup", "-q", stdin=step)[1]
    step = refine("sample", *words, "-q", stdin=step)[1]
    code, whole, err = refine("all", src, *words, *skip, "-q")
    check("all with budgets", code == 0 and whole == step and whole.count(b"\n") > 50,
          (err, whole.count(b"\n"), step.count(b"\n")))
    stages = stats_of("all", src, *words, *skip)[0]
    check_equal("its stages", list(stages), ["read", "dedup", "sample"])
    check("its sizes", stages["sample"]["languages_out"]["C"]["bytes"] <= 4000 and
          stages["dedup"]["out"] == stages["sample"]["in"], stages["sample"])


main()
end()
