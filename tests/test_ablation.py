#!/usr/bin/env python3
"""Tests ablations: variants of a small plan with what they share, tables and verdicts, wrong files,
and dry runs of plans/ablations."""

import glob
import json
import os
import re
import shutil
import sys

import test_cookbook as cookbook
from check import ROOT, SCRATCH, check, check_equal, end, start, write_file

sys.path.insert(0, os.path.join(ROOT, "cookbook"))
import collect  # noqa: E402
import compare  # noqa: E402

PLACE = cookbook.PLACE = os.path.relpath(os.path.join(SCRATCH, "ablation"), ROOT)
ABLATE = [sys.executable, "cookbook/ablation.py"]
DATA = """
[ablation]
about = a test of data
base = {place}/base
paper = the first one is best (section 9).
note = The data are made up.
until = pretrain
seeds = 2
[all]
pretrain.lr = 2e-3
[variant file]
[variant none]
refine.skip = dedup
[variant stars]
refine.stars = {place}/stars.jsonl
refine.min-stars = 5
"""
TUNING = """
[ablation]
about = a test of tuning
base = {place}/phases
paper = the first one is best (table 9).
until = sft-2
seeds = 1
[variant two-stage]
[variant mixed]
drop = sft-2
sft-1.parts = stage-1=2 stage-2=1
[variant original]
mixture.parts = original=1
"""


def ablate(*words):
    done = start(*ABLATE, *words, "-o", f"{PLACE}/work")
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def read(name):
    with open(f"{PLACE}/{name}", encoding="utf-8") as file:
        return file.read()


def repositories(folder):
    """Those of held-out and of other files in the directory of a refine stage."""
    folder = os.path.relpath(folder, PLACE)
    return [{json.loads(line)["repo"] for line in read(f"{folder}/{name}.jsonl").splitlines()}
            for name in ("held-out", "train")]


def rows(name):
    """{variant: cells} of a report."""
    lines = [line.strip("| ").split(" | ") for line in read(name).splitlines()
             if line.startswith("| `")]
    return {cells[0].strip("`"): cells[1:] for cells in lines}


def test_data(data):
    code, _, err = ablate(data, "--copy", f"{PLACE}/tree")
    if not check_equal("an ablation of data ends well", code, 0):
        print(err[-3000:], file=sys.stderr)
        return
    check_equal("shared is what does not differ", [len(glob.glob(f"{PLACE}/work/{stage}-*")) for
                stage in ("collect", "refine", "vocabulary", "pack", "pretrain")],
                [1, 3, 3, 3, 6])
    found = sorted(map(repositories, glob.glob(f"{PLACE}/work/refine-*")), key=str)
    check_equal("held out is the same, stars choose", found,
                sorted([[{"kept"}, {"one", "two"}]] * 2 + [[{"kept"}, {"two"}]], key=str))
    texts = {read(os.path.relpath(path, PLACE)) for path in
             glob.glob(f"{PLACE}/work/refine-*/held-out.jsonl")}
    check_equal("byte for byte", len(texts), 1)
    words = {start("./tokenizer", "info", path).stdout for path in
             glob.glob(f"{PLACE}/work/vocabulary-*/vocab.gguf")}
    check_equal("one vocabulary", len(words), 1)
    table = rows("work/data/data.md")
    check_equal("variants of the table", list(table), ["file", "none", "stars"])
    counts = [int(table[name][0]) for name in table]
    check("copies stay where none is dropped", counts[1] == counts[0] + 3 > counts[2] + 3, counts)
    trained = [int(cells[2].replace(",", "")) for cells in table.values()]
    check("all are trained alike", max(trained) <= 10 * 4 * 64 < 1.02 * min(trained), trained)
    check_report("tree/data.md", 3)


def check_report(name, variants):
    text = read(name)
    check(f"{name}: says what the paper found", "the first one is best" in text)
    check(f"{name}: has a verdict", "The paper's choice" in text or "One seed alone" in text, text)
    folder = os.path.dirname(name)
    found = re.findall(r"\]\(([\w-]+\.svg)\)", text)
    check_equal(f"{name}: pictures", len(found), 2)
    lines = [read(f"{folder}/{svg}").count("<path fill=\"none\"") for svg in found]
    check_equal(f"{name}: lines of them", lines, [variants] * 2)


def test_again(data):
    code, _, err = ablate(data)
    check("a second run does nothing again", code == 0 and "$ ./" not in err, err)
    code, _, err = ablate(data, "--seeds", "3")
    check("one more seed is what is missing", code == 0 and err.count("$ ./train") == 3 and
          "$ ./refine" not in err, err)


def test_tuning(tuning):
    code, _, err = ablate(tuning)
    if not check_equal("an ablation of tuning ends well", code, 0):
        print(err[-3000:], file=sys.stderr)
        return
    check_equal("trained", [err.count(f"$ ./train {name}") for name in
                            ("pretrain", "anneal", "sft")], [1, 3, 5])
    check("a second phase goes on with the state of the first, at the same rate", re.search(
        r"--init \S+/pretrain-1-\w+/model.bin.ckpt-000010 .*--schedule constant --warmup 0", err)
        and "AdamW begins anew" not in err, err)
    mixed = re.search(r"sft \S+/stage1.tok=2 \S+/stage2.tok=1 --stage 1", err)
    check("mixed pairs", mixed, err)
    table = rows("work/tuning/tuning.md")
    check("measured are pairs and bytes", all(len(cells) == 9 for cells in table.values()), table)
    check("what one stage made is measured too", "stage-1-completions" in err)
    check_report("work/tuning/tuning.md", 3)


def test_verdicts():
    def runs(*bits):
        return [{"bits": value} for value in bits]
    results = {"a": runs(2.0, 2.1), "b": runs(2.2, 2.32), "c": runs(1.99, 2.11),
               "d": runs(1.5, 1.6)}
    found, spread = compare.compare(results, "bits")
    check("differences are those of a seed", abs(found["b"] - 0.21) < 1e-9 and
          abs(found["c"]) < 1e-9 and abs(spread - 0.02) < 1e-9, (found, spread))
    check_equal("verdicts", [compare.verdict(found[name], spread) for name in found],
                ["worse", "no difference", "better"])
    text = compare.conclusion(results, "bits", "bits per byte")
    check("said: where it differs from the paper", "differs from the paper: `d`" in text and
          "`c` cannot be told from it" in text, text)
    text = compare.conclusion({"a": results["a"], "b": results["b"]}, "bits", "bits")
    check("said: where it agrees", "speaks for the paper's choice" in text, text)
    text = compare.conclusion({"a": runs(2.0), "b": runs(3.0)}, "bits", "bits")
    check("one seed tells nothing", "One seed" in text and "speaks" not in text, text)


def test_forks():
    """Made-up forks have half of the files, and are the same ones every time."""
    place = f"{PLACE}/forks"
    for repo in "one", "two", "kept":
        for number in range(30):
            write_file(f"{place}/{repo}/{number % 3}/f{number}.py", "x = 1\n")
    collect.fork(place, 1, ["kept"])
    forks = sorted(name for name in os.listdir(place) if "-fork-" in name)
    sizes = [sum(len(files) for _, _, files in os.walk(f"{place}/{name}")) for name in forks]
    check("one fork or more of each, none of what is held out",
          {name.split("-")[0] for name in forks} == {"one", "two"}, forks)
    check("with half of the files, about", all(5 <= size <= 25 for size in sizes), sizes)
    before = sorted(glob.glob(f"{place}/**", recursive=True))
    collect.fork(place, 1, ["kept"])
    check_equal("forks have no forks", sorted(glob.glob(f"{place}/**", recursive=True)), before)
    stars = [int(1.5 / collect.chance(f"stars of {n}")) - 1 for n in range(1000)]
    share = sum(number >= 5 for number in stars) / 1000
    check("a quarter has five stars", 0.2 < share < 0.3 and min(stars) == 0, share)


def test_wrong(data):
    for name, old, new, *words in (
            ("a base that is not there", "/base", "/gone", "gone", "expected a plan"),
            ("no base", "base = ", "# base = ", "[ablation] base", "missing"),
            ("an unknown key of its own", "note =", "nose =", "[ablation] nose", "perhaps note"),
            ("an unknown last stage", "until = pretrain", "until = export", "'export'"),
            ("no number", "seeds = 2", "seeds = two", "'two'"),
            ("no seeds", "seeds = 2", "seeds = 0", "'0'"),
            ("an unknown section", "[all]", "[every]", "[every]"),
            ("a variant without a name", "[variant file]", "[variant ]", "[variant ]"),
            ("a key without a section", "refine.skip", "skip", "[variant none] skip", "drop"),
            ("a section that is not there", "refine.skip", "refin.skip", "refin", "perhaps refine"),
            ("a section that it has no use for", "refine.skip = dedup", "anneal.steps = 5",
             "[variant none] anneal.steps", "unknown"),
            ("no section to drop", "refine.skip = dedup", "drop = packs", "drop = packs",
             "perhaps pack"),
            ("a key that no program knows", "refine.skip", "refine.skipp", "[variant none]",
             "[refine] skipp"),
            ("one variant", "[variant none]\nrefine.skip = dedup\n[variant stars]\n", "",
             "expected two")):
        check(f"{name}: the file had it", old in data)
        code, out, err = ablate(write_file(f"{PLACE}/wrong", data.replace(old, new, 1)))
        check(f"refused: {name}", code == 1 and err.startswith("error: ") and not out and
              err.count("\n") == 1 and all(word in err for word in words), (code, err))
    code, _, err = ablate(write_file(f"{PLACE}/wrong", data), "--seeds", "many")
    check("refused: seeds of the command line", code == 1 and "'many'" in err, err)


def test_dry_runs():
    files = sorted(glob.glob(os.path.join(ROOT, "plans", "ablations", "*")))
    check_equal("the five of the repository", list(map(os.path.basename, files)),
                ["anneal", "dedup", "filter", "sft", "stars"])
    done = start(*ABLATE, *files, "--dry-run", "-o", f"{PLACE}/dry")
    out = done.stdout.decode()
    check_equal("they are all well", (done.returncode, done.stderr), (0, b""))
    check("they run nothing", not os.path.exists(f"{PLACE}/dry"))
    check_equal("one base for all five, and four other corpora", out.count("./refine all"), 5)
    models = re.findall(r"-o (\S+/model.bin)", out)
    check_equal("no model is made twice", len(models), len(set(models)))
    steps = {sum(map(int, re.findall(r"--steps (\d+)", "".join(part)))) for part in
             re.findall(r"#### sft: (?!what).*?(?=####|\Z)", out, re.DOTALL)}
    check("all ways of tuning have as many updates", 120 in steps, steps)


def main():
    os.chdir(ROOT)
    shutil.rmtree(PLACE, ignore_errors=True)
    test_verdicts()
    test_forks()
    test_dry_runs()
    cookbook.make_corpus(f"{PLACE}/corpus")
    for number in range(3):
        shutil.copyfile(f"{PLACE}/corpus/one/f{number}.py", f"{PLACE}/corpus/two/g{number}.py")
    base = cookbook.PLAN.format(corpus=f"{PLACE}/corpus", install="x", copy="y", steps=10)
    write_file(f"{PLACE}/base", base)
    write_file(f"{PLACE}/phases", base.replace("[pretrain]", "[pretrain-1]").replace(
        "[instruct]", "[pretrain]\nsteps = 6\nbatch = 2\nseq-len = 128\n[instruct]"))
    write_file(f"{PLACE}/stars.jsonl", '{"repo": "one", "stars": 4}\n{"repo": "two", "stars": 5}\n')
    text = DATA.format(place=PLACE)
    test_wrong(text)
    data = write_file(f"{PLACE}/data", text)
    test_data(data)
    test_again(data)
    test_tuning(write_file(f"{PLACE}/tuning", TUNING.format(place=PLACE)))
    end()


if __name__ == "__main__":
    main()
