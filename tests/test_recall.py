#!/usr/bin/env python3
"""Tests ./refine recall: every rule of it with a classifier that is known, then all of it with
fastText on a small made-up crawl whose labels are known. tests/test_recall_read.py has the rest."""

import glob
import json
import os
import signal
import subprocess
import sys
import time

import crawl
from check import ROOT, check, check_equal, end, short, skip
from recall_case import (FAKE, MODEL, PLACE, REAL, SEED, figures, has_libraries, pages, put,
                         recalled, run)
from refine_case import REFINE, STRICT, refine, refused


def urls(found):
    return sorted(d["url"] for d in found)


def test_threshold():
    path = pages("threshold.jsonl", ("https://a.org/1", "p0500 x"), ("https://b.org/1", "p0499 x"),
                 ("https://c.org/1", "p0900"), ("https://d.org/1", "p0700"), (None, "p0600"),
                 (None, "p0100"), ("https://e.org/1", ""))
    found = recalled(path, "--iterations", 1)
    check_equal("0.5 is code, less is not", [(d.get("url"), d["score"], d["why"]) for d in found], [
        ("https://a.org/1", 0.5, "classifier"), ("https://c.org/1", 0.9, "classifier"),
        ("https://d.org/1", 0.7, "classifier"), (None, 0.6, "classifier")])
    check_equal("domains", [d["domain"] for d in found], ["a.org", "c.org", "d.org", ""])
    check_equal("--threshold", urls(recalled(path, "--model", MODEL, "--threshold", 0.9)),
                ["https://c.org/1"])
    check_equal("--threshold 0", len(recalled(path, "--model", MODEL, "--threshold", 0)), 6)
    stages, total = figures(path, "--iterations", 1)
    check_equal("statistics", {key: stages[0][key] for key in (
        "seed", "sample", "like_code", "domains", "code_domains", "joined_seed")}, {
            "seed": 1, "sample": 1, "like_code": 4, "domains": 4, "code_domains": 3,
            "joined_seed": 0})
    check_equal("pages in and out", [stages[0][k]["files"] for k in ("in", "out")], [7, 4])
    check_equal("the rest has reasons", {k: v["files"] for k, v in stages[0]["dropped"].items()},
                {"empty": 1, "not code": 2})
    check_equal("nothing broken", total["broken"]["files"], 0)


def test_domains():
    """A domain is code-related when more than 10 % of its pages are code."""
    ten = [(f"https://www.ten.org/{i}", "p0900" if i == 0 else "p0300") for i in range(10)]
    nine = [(f"https://x{i}.nine.org/{i}", "p0900" if i == 0 else "p0300") for i in range(8)] + \
           [("https://nine.org/low", "p0299")]
    path = pages("domains.jsonl", *ten, *nine)

    def by_domain(*more):
        found = recalled(path, "--model", MODEL, "--domain-threshold", 0.3, *more)
        return [sum(d["domain"] == name for d in found) for name in ("ten.org", "nine.org")]
    check_equal("1 of 10 is not enough, 1 of 9 is", by_domain(), [1, 8])
    check_equal("--domain-share below 10", by_domain("--domain-share", 9.9), [10, 8])
    check_equal("--domain-share above 1 of 9", by_domain("--domain-share", 11.2), [1, 1])
    check_equal("--min-pages 9", by_domain("--min-pages", 9), [1, 8])
    check_equal("--min-pages 10", by_domain("--min-pages", 10), [1, 1])
    check_equal("--domain-threshold 0 takes all", by_domain("--domain-threshold", 0), [1, 9])
    check_equal("by default domains recall nothing", by_domain("--domain-threshold", 1), [1, 1])
    why = {d["url"]: d["why"] for d in recalled(path, "--model", MODEL, "--domain-threshold", 0.3)}
    check_equal("why", [why["https://x0.nine.org/0"], why["https://x1.nine.org/1"]],
                ["classifier", "domain"])
    table = os.path.join(PLACE, "domains.json")
    recalled(path, "--model", MODEL, "--domains", table)
    with open(table, encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    check_equal("--domains", [(d["domain"], d["pages"], d["code"], d["code_related"])
                              for d in found],
                [("ten.org", 10, 1, False), ("nine.org", 9, 1, True)])
    check_equal("the sections with most code", found[0]["sections"][0],
                {"section": "0", "pages": 1, "code": 1})
    check_equal("5 of them", len(found[0]["sections"]), 5)
    path = pages("odd.jsonl", ("https://a b.org/x y/z", "p0900"), ("https://b.org/", "p0100"))
    recalled(path, "--model", MODEL, "--domains", table)
    with open(table, encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    check_equal("a space in a domain", [(d["domain"], [s["section"] for s in d["sections"]])
                                        for d in found], [("a b.org", ["x y"]), ("b.org", [""])])


def test_base_domains():
    cases = [
        ("https://a.b.example.org/x", "example.org"), ("http://EXAMPLE.Org:8080/", "example.org"),
        ("https://www.bbc.co.uk/news", "bbc.co.uk"), ("https://co.uk/", "co.uk"),
        ("https://a.b.com.au", "b.com.au"), ("https://user:pass@x.example.org/", "example.org"),
        ("https://ann.github.io/p", "ann.github.io"), ("https://x.ann.github.io", "ann.github.io"),
        ("https://github.io/", "github.io"), ("https://github.com/a", "github.com"),
        ("https://10.0.0.1/x", "10.0.0.1"), ("https://[2001:db8::1]:80/x", "[2001:db8::1]"),
        ("https://localhost/", "localhost"), ("https://example.org./", "example.org"),
        ("//a.example.org/x", "example.org"), ("https://www.t.co/x", "t.co"),
        ("https://docs.dev.to/x", "dev.to"), ("https://a.example.org?q=1/2", "example.org"),
        ("https://example.org#a.b", "example.org"), ("ftp://ftp.gnu.org/", "gnu.org"),
        ("https://a.org.com/x", "org.com"), ("https://x.ac.uk.com/", "uk.com"),
        ("nonsense", ""), ("", ""), ("https://", ""), ("https:///x", ""), ("a b://c.org/", ""),
        ("https://müller.de/x", "müller.de"), ("https://.../", "")]
    path = pages("base.jsonl", *[(url or None, f"p0900 number{i}")
                                 for i, (url, _) in enumerate(cases)])
    found = recalled(path, "--model", MODEL)
    for (url, domain), d in zip(cases, found):
        check_equal(f"domain of {url!r}", d["domain"], domain)
    check_equal("all are there", len(found), len(cases))


def test_patterns():
    """% stands for anything; what a pattern matches is the whole address, or what follows www."""
    cases = [
        ("%my.oschina.net%blog%", "https://my.oschina.net/u/4/blog/11", True),
        ("%my.oschina.net%blog%", "https://my.oschina.net/u/4/news/11", False),
        ("%q.cnblogs.com/q%", "https://q.cnblogs.com/q/1", True),
        ("%q.cnblogs.com/q%", "https://q.cnblogs.com/p/1", False),
        ("docs.python.org/3/%", "https://docs.python.org/3/", True),
        ("docs.python.org/3/%", "https://docs.python.org/2/", False),
        ("docs.python.org/3/%", "https://not.docs.python.org/3/", False),
        ("example.org/a", "https://www.example.org/a", True),
        ("example.org/a", "https://www.example.org/ab", False),
        ("example.org/a", "https://example.org/A", True),
        ("https://a.org/%", "https://a.org/", True), ("https://a.org/%", "http://a.org/", False),
        ("%.net/%/x", "https://a.net/x/y/x", True), ("%.net/%/x", "https://a.net/x", False),
        ("%a%%b%", "https://ab.org", True), ("%/100\\%", "https://a.org/100%", True),
        ("%/100\\%", "https://a.org/100x", False), ("%a_b%", "https://a.org/axb", False),
        ("%a_b%", "https://a.org/a_b", True), ("%.org", "https://a.org/x", False),
        ("%aab", "https://x.org/aaab", True), ("%" + "a%" * 30 + "b", "https://" + "a" * 200,
                                               False)]
    for i, (pattern, url, wanted) in enumerate(cases):
        patterns = put("patterns.txt", f"# comment\n\n  {pattern}  \r\nno.such.address/%\n")
        path = pages("one.jsonl", (url, "p0100"), ("https://other/", "p0000"))
        found = recalled(path, "--patterns", patterns, "--model", MODEL, program=REFINE)
        check_equal(f"{i}: {pattern[:30]} on {url[:40]}", [d["why"] for d in found],
                    ["pattern"] if wanted else [])
    marked = put("patterns.txt", b"\xef\xbb\xbfa.org/%\n")
    check_equal("a byte order mark", len(recalled(pages("one.jsonl", ("https://a.org/1", "p0100")),
                                                  "--patterns", marked, "--model", MODEL)), 1)
    listed = os.path.join(ROOT, "data", "patterns_zh.txt")
    path = pages("zh.jsonl", ("https://juejin.cn/post/1", "p0100"),
                 ("https://juejin.cn/user/1", "p0100"))
    check_equal("the paper's Chinese list", urls(recalled(path, "--patterns", listed, "--model",
                                                          MODEL)),
                ["https://juejin.cn/post/1"])
    refused("a pattern of everything", 1, ["patterns.txt:2", "%%"], "recall", path, "--seed", path,
            "--fasttext", FAKE, "--patterns", put("patterns.txt", "# x\n%%\n"))
    refused("no patterns", 1, ["patterns.txt", "no pattern"], "recall", path, "--seed", path,
            "--fasttext", FAKE, "--patterns", put("patterns.txt", "# x\n"))


def test_iterations():
    """What a pattern finds and the classifier has missed joins the seed, once; what the next
    classifier knows from it is recalled then."""
    path = pages("iterations.jsonl", ("https://a.org/1", "topicone text"),
                 ("https://b.org/q/1", "topictwo text"), ("https://c.org/1", "topictwo more"),
                 ("https://d.org/1", "nothing"), ("https://e.org/1", "at all"))
    patterns = put("patterns.txt", "b.org/q/%\n")
    stages, _ = figures(path, "--patterns", patterns, "-o", os.path.join(PLACE, "out.jsonl"))
    with open(os.path.join(PLACE, "out.jsonl"), encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    check_equal("pages, iterations and reasons", [(d["url"][8], d["iteration"], d["why"])
                                                  for d in found],
                [("a", 1, "classifier"), ("b", 1, "pattern"), ("c", 2, "classifier")])
    check_equal("seed, joined, like code, out", [
        (s["stage"], s["seed"], s["joined_seed"], s["like_code"], s["out"]["files"])
        for s in stages], [("recall 1", 1, 1, 1, 2), ("recall 2", 2, 0, 3, 1),
                           ("recall 3", 2, 0, 3, 0)])
    check_equal("what was recalled is counted", stages[1]["dropped"]["recalled before"]["files"], 2)
    check_equal("without patterns nothing is learned", len(recalled(path)), 1)
    check_equal("--iterations 1", len(recalled(path, "--patterns", patterns, "--iterations", 1)), 2)
    whole = refine("recall", path, "--seed", SEED, "--fasttext", FAKE, "-q", "-j", 1, "--threshold",
                   0.05)[1]
    check("the same from any number of threads", whole.count(b"\n") == 5 and refine(
        "recall", path, "--seed", SEED, "--fasttext", FAKE, "-q", "-j", 3, "--threshold",
        0.05)[1] == whole, short(whole))


def test_sample():
    """As many pages as the seed has, none of the seed, none that patterns name; --sample."""
    path = pages("sample.jsonl", *[(f"https://a.org/{i}", f"word{i}") for i in range(50)],
                 ("https://seed.org/2", "other text"), ("https://x.org/1", "topicone def f(x): "
                                                        "return x"))
    seed = pages("seed3.jsonl", ("https://seed.org/1", "topicone def f(x): return x"),
                 ("https://seed.org/2", "topictwo"), ("https://seed.org/2", "topictwo again"),
                 (None, "topicthree"), (None, "topicthree"))
    model = os.path.join(PLACE, "model.bin")

    def learned(*more):
        recalled(path, "--seed", seed, "--iterations", 1, "--save-model", model, *more)
        with open(model, encoding="utf-8") as file:
            return file.read().splitlines()
    check_equal("both sides alike; twice in the seed is once", learned()[1], "3 3")
    check_equal("--sample", learned("--sample", 7)[1], "3 7")
    check_equal("no page of the seed in it", learned("--sample", 100)[1], "3 50")
    patterns = put("patterns.txt", "a.org/1%\n")
    check_equal("nor of patterns", learned("--sample", 100, "--patterns", patterns)[1], "3 39")
    check_equal("topics", learned()[0], "topicone topicthree topictwo")
    check("fastText's options", all(text in learned("--epochs", 7, "--lr", 0.25, "--dim", 8)[2]
                                    for text in ("-epoch 7", "-lr 0.25", "-dim 8", "-thread 1",
                                                 "-wordNgrams 2", "-loss softmax")))
    check_equal("--model needs no seed", urls(recalled(path, "--model", model)),
                ["https://x.org/1"])
    check("and counts one iteration", len(figures(path, "--model", model)[0]) == 1)


def test_words():
    """Words for fastText: letters in lower case, other characters alone, Chinese one by one."""
    echo = put("echo", open(FAKE, encoding="utf-8").read().replace(
        "    topics = sorted", "    print(text, file=open(sys.argv[0] + '.txt', 'w'))\n"
        "    topics = sorted"))
    os.chmod(echo, 0o755)
    seed = pages("words.jsonl", (None, "if (Foo_1 >= 2) x;\n\téÀ 中文__label__code __LABEL__x a\0b "
                                       + "long" * 20 + " p0900"))
    path = pages("one.jsonl", ("https://a.org", "other p0100"))

    def words(*more):
        refine("recall", path, "--seed", seed, "--fasttext", echo, "-q", *more, program=STRICT)
        with open(echo + ".txt", encoding="utf-8") as file:
            return file.readline().rstrip("\n")
    check_equal("words", words(), "__label__code if ( foo_1 > = 2 ) x ; éÀ 中 文 .__label__code "
                                  ".__label__x a b " + "long" * 10 + " p0900")
    check_equal("--max-words", words("--max-words", 4), "__label__code if ( foo_1 >")
    tokens = words("--tokenizer", os.path.join(ROOT, "tests", "data", "tok_bpe.gguf"))
    check("--tokenizer: numbers of tokens", tokens.startswith("__label__code ") and
          all(word.isdigit() for word in tokens.split()[1:]), short(tokens))
    refused("no such tokenizer", 1, ["none.gguf"], "recall", path, "--seed", seed, "--fasttext",
            FAKE, "--tokenizer", os.path.join(PLACE, "none.gguf"))


def test_errors():
    path = pages("one.jsonl", ("https://a.org", "p0100"))
    base = ["recall", path, "--fasttext", FAKE]
    nowhere = os.path.join(PLACE, "none")
    refused("no seed", 2, ["--seed"], *base)
    refused("no crawl", 2, ["no crawl"], "recall", "--seed", path, "--fasttext", FAKE)
    refused("seed and model", 2, ["--model"], *base, "--seed", path, "--model", path)
    refused("--resume", 2, ["--resume"], *base, "--seed", path, "--resume")
    refused("iterations", 2, ["--iterations", "0"], *base, "--seed", path, "--iterations", "0")
    refused("threshold", 2, ["--threshold", "1.5"], *base, "--seed", path, "--threshold", "1.5")
    refused("writes what it reads", 2, ["is read"], *base, "--seed", path, "-o", path)
    for option in "-o", "--stats", "--domains":
        refused(f"{option} is the model", 2, ["is read"], *base, "--model", MODEL, option, MODEL)
        patterns = put("patterns.txt", "a.org/%\n")
        refused(f"{option} is the patterns", 2, ["is read"], *base, "--seed", path, "--patterns",
                patterns, option, patterns)
        refused(f"{option} cannot be written", 1, ["none", "cannot create"], *base, "--seed", path,
                option, os.path.join(nowhere, "x"))
    refused("a file for two", 2, ["written twice"], *base, "--seed", path, "--domains",
            os.path.join(PLACE, "x"), "--stats", os.path.join(PLACE, "x"))
    check("nothing was written before", open(MODEL, encoding="utf-8").read() == "topicone\n")
    refused("no such crawl", 1, ["none", "cannot open"], *base, nowhere, "--seed", path)
    refused("no such seed", 1, ["none", "cannot open"], *base, "--seed", nowhere)
    refused("a directory", 1, ["regular file"], *base, PLACE, "--seed", path)
    refused("stdin", 1, ["-: cannot open"], *base, "-", "--seed", path)
    refused("no such model", 1, ["none", "cannot open"], *base, "--model", nowhere)
    refused("no fastText", 1, ["no such program", "Debian package fasttext"], "recall", path,
            "--seed", path, "--fasttext", "no-such-fasttext")
    refused("no program", 1, ["no such program"], "recall", path, "--seed", path, "--fasttext",
            PLACE)
    refused("only the seed", 1, ["not in the seed"], *base, "--seed", path)
    refused("an empty seed", 1, ["--seed", "no page"], *base, "--seed", put("empty.jsonl", ""))
    bad = pages("bad.jsonl", (None, "cannotlearn"))
    refused("it cannot learn", 1, ["exit code 1", "made to fail"], *base, "--seed", bad)
    seed = pages("seed.jsonl", ("https://seed.org/1", "topicone def f(x): return x"))
    for word, wanted in (("diehere", "has ended"), ("garbagehere", "nonsense")):
        path = pages("bad.jsonl", ("https://a.org", word))
        refused(f"classifier: {word}", 1, ["predict-prob", wanted], "recall", path, "--seed", seed,
                "--fasttext", FAKE)
    code, _, err = run(path, "-q", env={"TMPDIR": nowhere})
    check("no place for temporary files", code == 1 and "TMPDIR" in err, err)


def test_interrupted():
    """Nothing stays behind: no output, no temporary file."""
    place = os.path.join(PLACE, "tmp")
    os.makedirs(place, exist_ok=True)
    seed = pages("sleepy.jsonl", (None, "sleepforever"))
    path, out = pages("one.jsonl", ("https://a.org", "p0900")), os.path.join(PLACE, "never.jsonl")
    command = [STRICT, "recall", path, "--seed", seed, "--fasttext", FAKE, "-q", "-o", out]
    for sig in (signal.SIGINT, signal.SIGTERM):
        child = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TMPDIR": place})
        until = time.time() + 60
        while time.time() < until and not any("log" in files for _, _, files in os.walk(place)):
            time.sleep(0.02)
        child.send_signal(sig)
        check_equal(f"exit code after {sig.name}", child.wait(60), 128 + sig)
        check_equal(f"nothing is left after {sig.name}", (os.listdir(place), [
            name for name in os.listdir(PLACE) if name.startswith("never")]), ([], []))
    check_equal("nor of a run that ends", (run(path, "-q", env={"TMPDIR": place})[0],
                                           os.listdir(place)), (0, []))
    check_equal("nor of one that fails", (run(pages("bad.jsonl", ("https://a.org", "diehere")),
                                              "-q", env={"TMPDIR": place})[0],
                                          os.listdir(place)), (1, []))


def running(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_killed():
    """With it ends fastText; what it leaves goes with the next run, what others have stays."""
    place = os.path.join(PLACE, "killed")
    os.makedirs(place, exist_ok=True)
    path = pages("one.jsonl", ("https://a.org", "p0900"))
    child = subprocess.Popen([STRICT, "recall", path, "--seed", pages("sleepy.jsonl", (
        None, "sleepforever")), "--fasttext", FAKE, "-q"], env={**os.environ, "TMPDIR": place})
    until = time.time() + 60
    asleep = ""
    while time.time() < until and not asleep.endswith("\n"):
        time.sleep(0.02)
        for log in glob.glob(f"{place}/*/log"):
            with open(log, encoding="utf-8") as file:
                asleep = file.read()
    child.kill()
    child.wait()
    if sys.platform == "linux":
        while time.time() < until and running(int(asleep)):
            time.sleep(0.02)
        check("fastText is killed with it", not running(int(asleep)), asleep)
    left = os.listdir(place)
    check("a killed run leaves its directory", len(left) == 1 and left[0].startswith("recall.") and
          left[0].endswith(f".tmp-{child.pid}"), left)
    host, gone = left[0].rsplit(".", 2)[0], child.pid
    others = [f"{host}.0.tmp-{os.getpid()}", f"recall.otherhost.0.tmp-{gone}", "recall-abcdef",
              f"{host}.1.tmp-{gone}/mine"]
    for name in others:
        os.makedirs(os.path.join(place, name))
    check_equal("the next one ends well", run(path, "-q", env={"TMPDIR": place})[0], 0)
    check_equal("and leaves what is not its own", sorted(os.listdir(place)),
                sorted(name.split("/")[0] for name in others))


def test_fasttext():
    """The crawl of crawl.py, a third each as WARC, WET and JSON Lines, by the real program."""
    if not REAL:
        return skip("with fastText", "it is not installed")
    made = crawl.crawl(1200)
    third = len(made) // 3
    files = [put("a.jsonl", crawl.lines(made))]
    if has_libraries():
        files = [put("a.jsonl", crawl.lines(made[:third])),
                 put("b.warc.gz", crawl.warc(made[third:2 * third])),
                 put("c.warc.wet.gz", crawl.wet(made[2 * third:]))]
    seed = put("real.jsonl", "".join(json.dumps(page) + "\n" for page in crawl.seed_pages(60)))
    patterns = put("patterns.txt", "%qanda%.com/questions/%\n")
    command = ["recall", *files, "--seed", seed, "--patterns", patterns, "-q", "-j", 2]
    code, out, err = refine(*command)
    check_equal("it ends well", (code, err), (0, ""))
    found = [json.loads(line) for line in out.decode().splitlines()]
    floors = {1: (0.98, 0.85), 3: (0.98, 0.98)}
    for last, (precise, complete) in floors.items():
        precision, recall = crawl.quality({d["url"] for d in found if d["iteration"] <= last}, made)
        check(f"iteration {last}: precision {precision:.4f}, recall {recall:.4f} of {len(made)} "
              "pages", precision >= precise and recall >= complete,
              f"expected at least {precise} and {complete}")
    hard = {page["url"] for page in made if page["hard"]}
    check("patterns find what the text does not tell", hard and hard <= {
        d["url"] for d in found if d["why"] == "pattern"} | {
            d["url"] for d in found if d["iteration"] > 1}, short(sorted(hard)[:5]))
    check("the same again", refine(*command)[1] == out)
    return None


for test in (test_threshold, test_domains, test_base_domains, test_patterns, test_iterations,
             test_sample, test_words, test_errors, test_interrupted, test_killed, test_fasttext):
    test()
end()
