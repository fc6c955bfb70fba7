#!/usr/bin/env python3
"""Tests the cookbook: the whole chain on a small corpus, going on after a stop, wrong plans, dry
runs of the plans of this repository, and build/plot."""

import fcntl
import glob
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

from check import ROOT, SCRATCH, check, check_equal, end, short, start, write_file

sys.path.insert(0, os.path.join(ROOT, "cookbook"))
import measure  # noqa: E402

PLACE = os.path.relpath(os.path.join(SCRATCH, "cookbook"), ROOT)  # ours is started there
COOK = [sys.executable, "cookbook/cookbook.py"]
PLOT = os.path.join("build", "asan", "plot")  # every input is tried on the strict one, if built
if not os.path.exists(os.path.join(ROOT, PLOT)):
    PLOT = os.path.join("build", "plot")
PLAN = """
[plan]
about = a test    # what follows is no comment's business
threads = 2
[collect]
corpus = {corpus}
held-out = kept
leave-out = skipped
[refine]
languages = python
held-out-words = 40
[vocabulary]
vocab = 500
[pack]
[pretrain]
dim = 32
layers = 1
heads = 2
ctx = 256
tied = yes
seq-len = 64
batch = 4
steps = {steps}
lr = 3e-3
val-rows = 8
save-every = 20
[instruct]
best = 40
[mixture]
phrases = no such text; also none
[anneal]
steps = 6
batch = 4
seq-len = 64
val-rows = 8
[sft-1]
batch = 8
seq-len = 128
[sft-2]
batch = 8
seq-len = 128
[export]
quantize = q8_0
install = {install}
[evaluate]
completions = 8
tokens = 24
held-out-bytes = 4000
[report]
copy = {copy}
"""


def source(rng, name):
    """A file of functions with docstrings that the rules of refine let pass."""
    words = "alpha beta gamma delta count total first last width height name value item key".split()
    text = f'"""Small functions of {name}."""\n\nimport math\n\n'
    for number in range(5):
        a, b, c = rng.sample(words, 3)
        n, m = rng.randrange(2, 90), rng.randrange(2, 90)
        text += (f"\ndef {a}_{b}_{number}({a}, {b}={n}):\n"
                 f'    """Return the {c} of {a} and {b}, but at least {m} of them."""\n'
                 f"    {c} = math.floor({a} * {n}) + {b}\n"
                 f"    for step in range({m}):\n"
                 f"        if {c} > step * {n}:\n"
                 f"            {c} -= {b} + {rng.randrange(100)}\n"
                 f"        elif {a} == {rng.randrange(100)}:\n"
                 f"            {c} += step\n"
                 f"    return max({c}, {m})\n\n")
    return text


def make_corpus(place):
    rng = random.Random(3)
    for repo, count in ("one", 20), ("two", 20), ("kept", 6):
        for number in range(count):
            write_file(f"{place}/{repo}/f{number}.py", source(rng, f"{repo} {number}"))
    write_file(f"{place}/one/skipped/f.py", source(rng, "left out"))
    write_file(f"{place}/one/text.c", "int main(void) { return 0; }\n" * 20)
    shutil.copyfile(f"{place}/kept/f0.py", f"{place}/two/copy.py")


def make_plan(name, **values):
    given = {"corpus": f"{PLACE}/corpus", "install": f"{PLACE}/shipped/tiny.bin",
             "copy": f"{PLACE}/tree", "steps": 40, **values}
    return write_file(f"{PLACE}/{name}", PLAN.format(**given))


def cook(plan, *words, **more):
    done = start(*COOK, plan, "-o", f"{PLACE}/work", *words, **more)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def stamp(stage):
    with open(f"{PLACE}/work/{stage}/stamp.json", encoding="utf-8") as file:
        return json.load(file)


def read(name):
    with open(f"{PLACE}/{name}", encoding="utf-8") as file:
        return file.read()


def test_chain(plan):
    code, _, err = cook(plan)
    if not check_equal("the whole chain ends well", code, 0):
        print(err[-3000:], file=sys.stderr)
        return
    held = [json.loads(line) for line in read("work/refine/held-out.jsonl").splitlines()]
    kept = [json.loads(line) for line in read("work/refine/train.jsonl").splitlines()]
    check_equal("held-out repositories are those named", {d["repo"] for d in held}, {"kept"})
    check_equal("the others are trained on", {d["repo"] for d in kept}, {"one", "two"})
    check("a copy of a held-out file is not", "copy.py" not in {d["path"] for d in kept})
    check("directories can be left out", not any("skipped" in d["path"] for d in kept))
    check_equal("one language is kept", {d["language"] for d in kept + held}, {"Python"})
    figures = stamp("pretrain")["figures"]
    check("the loss falls", figures["loss"] < 5.9 and figures["updates"] == 40, figures)
    anneal = stamp("anneal")["figures"]
    check_equal("no algorithmic files: they have no share", anneal["absent"], ["algorithmic"])
    check_equal("parts of the mixture", [os.path.basename(part) for part in anneal["mixture"]],
                ["train.tok=84", "synthetic.tok=3.6"])
    scores = stamp("evaluate")["figures"]
    check_equal("models that are measured", list(scores["models"]),
                ["base", "annealed", "chat", "exported"])
    check("bits per byte, gzip, xz", all(0 < row["bits"] < 9 for row in scores["models"].values())
          and len(scores["text"]["bits"]) == 4, scores["text"])
    check_equal("completions", scores["models"]["chat"]["completions"]["functions"], 8)
    check("the model is put where the plan says",
          read_bytes("shipped/tiny.bin") == read_bytes("work/export/model.bin"))
    done = start("./convert", "--check", f"{PLACE}/shipped/tiny.bin")
    check_equal("it is whole", done.returncode, 0)
    for place in "work", "tree":
        check_report(place)
    check("nothing half-made is left", not glob.glob(f"{PLACE}/work/*.part") and
          not glob.glob(f"{PLACE}/*/*.tmp"))


def read_bytes(name):
    with open(f"{PLACE}/{name}", "rb") as file:
        return file.read()


def check_report(place):
    text = read(f"{place}/report.md")
    for word in "pretrain", "sft-2", "| exported |", "gzip -9, one stream", "./train anneal ":
        check(f"{place}/report.md has {word}", word in text)
    for name in re.findall(r"\]\((\w+\.svg)\)", text):
        check(f"{place}/{name}", read(f"{place}/{name}").startswith("<svg"))
    check(f"{place}: no column is wider than the house's", all(
        len(line) <= 400 for line in text.splitlines() if line.startswith("|")))


def test_again(plan):
    code, _, err = cook(plan)
    check("a second run does nothing again", code == 0 and err.count("done before") == 12, err)
    text = read("plan").replace("log-every = 1\n", "") + "\n"
    other = write_file(f"{PLACE}/other", text.replace("save-every = 20", "save-every = 30"))
    code, _, err = cook(other, "--until", "pretrain")
    check("what changes nothing starts nothing", code == 0 and "$ " not in err, err)
    other = write_file(f"{PLACE}/other", text.replace("completions = 8", "completions = 4"))
    code, _, err = cook(other)
    check("a changed section is done again, and what hangs on it", code == 0 and
          err.count("done before") == 11 and "$ ./train" not in err, err)


def test_corpus():
    """A directory in place of the plan's packages: one file of twenty is held out."""
    words = ["-o", f"{PLACE}/demo", "--corpus", f"{PLACE}/corpus", "--until", "refine"]
    done = start(*COOK, "plans/demo", *words)
    counts = json.loads(read("demo/refine/stamp.json"))["figures"] if not done.returncode else {}
    check("one file of twenty is held out", counts and
          [counts[part]["files"] for part in ("held-out", "train")] == [3, 44],
          (counts, done.stderr))
    with open(f"{PLACE}/demo/lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = start(*COOK, "plans/demo", *words)
    check("one at a time", done.returncode == 1 and b"another `make cookbook`" in done.stderr, done)
    done = start(*COOK, "plans/demo", *words, "--held-out", "two")
    names = {json.loads(line)["repo"] for line in read("demo/refine/held-out.jsonl").splitlines()}
    check_equal("or folders that are named", (done.returncode, names), (0, {"two"}))


def test_resume():
    """Stopped in the middle of pretraining, by Ctrl-C to all or by SIGTERM to one."""
    plan = make_plan("long", steps=4000)
    for name, number in ("Ctrl-C", signal.SIGINT), ("SIGTERM", signal.SIGTERM):
        child = subprocess.Popen([*COOK, plan, "-o", f"{PLACE}/work", "--until", "pretrain"],
                                 cwd=ROOT, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                                 start_new_session=True)
        seen = b""
        while b"step 100/" not in seen and b"step 200" not in seen:
            line = child.stderr.readline()
            seen += line
            if not line:
                break
        if number == signal.SIGINT:
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)
        rest = child.stderr.read().decode()
        check_equal(f"{name}: exit code", child.wait(), 130)
        check(f"{name}: says how to go on", "goes on from here" in rest, rest)
        there = glob.glob(f"{PLACE}/work/pretrain.part/model.bin.ckpt-*")
        check(f"{name}: leaves a checkpoint", there, there)
    before = stamp("pretrain")["figures"]["updates"]
    check_equal("a finished stage of before is still there", before, 40)
    for steps in re.findall(r"going on from .*ckpt-(\d+)", seen.decode()):
        check("the second run went on where the first stopped", int(steps) >= 100, steps)
    check("it did go on", b"--resume" in seen, short(seen))
    minutes = (float(read("work/pretrain.part/seconds")) + 3) / 60
    write_file(plan, read("long").replace("[pretrain]", f"[pretrain]\nminutes = {minutes}"))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does in the background
    code, _, err = cook(plan, "--until", "pretrain")
    signal.signal(signal.SIGINT, before)
    done = stamp("pretrain")["figures"]["updates"]
    check("minutes end the stage with its last checkpoint", code == 0 and 100 < done < 4000, err)
    shutil.copytree(f"{PLACE}/work/pretrain", f"{PLACE}/work/pretrain.part")
    for name in "pretrain/stamp.json", "pretrain.part/stamp.json", "pretrain.part/model.bin":
        os.remove(f"{PLACE}/work/{name}")
    with open(f"{PLACE}/work/pretrain.part/seconds", "w", encoding="utf-8") as file:
        file.write("1000\n")  # it was rounded, maybe down
    code, _, err = cook(plan, "--until", "pretrain")
    check("no time left: the last checkpoint is it", code == 0 and "$ ./train" not in err and
          stamp("pretrain")["figures"]["updates"] == done, err)
    check_long(plan)
    old = f"{PLACE}/work/pretrain.old/model.bin"
    check("a model that is replaced is kept", os.path.exists(old))


def check_long(plan):
    """Training that took long is not done again for a key that changed unasked."""
    made = stamp("pretrain")
    write_file(f"{PLACE}/work/pretrain/stamp.json", json.dumps({**made, "seconds": 3600}))
    other = write_file(f"{PLACE}/other", read("long").replace("lr = 3e-3", "lr = 2e-3"))
    code, _, err = cook(other, "--until", "pretrain")
    check("an hour of training is not thrown away", code == 1 and "60 minutes" in err and
          "--redo" in err and "$ " not in err, err)
    code, _, err = cook(plan, "--until", "pretrain")
    check("it still fits its own plan", code == 0 and "pretrain: done before, 3600 s" in err, err)
    code, _, err = cook(other, "--until", "pack", "--redo")
    check("unless one asks for it", code == 0, err)


def refused(name, plan, *words, wrong=""):
    code, out, err = cook(plan, "--dry-run")
    check(f"refused: {name}", code == 1 and err.startswith("error: ") and err.count("\n") == 1 and
          not out and all(word in err for word in words), (code, err, wrong))


def test_wrong_plans():
    good = PLAN.format(corpus=f"{PLACE}/corpus", install="x", copy="y", steps=5)
    for name, old, new, *words in (
            ("an unknown section", "[pack]", "[pakc]", "[pakc]", "perhaps pack"),
            ("an unknown key", "layers = 1", "layer = 1", "[pretrain] layer", "perhaps layers"),
            ("a key of another stage", "vocab = 500", "vocab = 500\nlayers = 2",
             "[vocabulary] layers"),
            ("a key that is the cookbook's", "layers = 1", "resume = yes", "set by the cookbook"),
            ("no number", "steps = 5", "steps = many", "[pretrain] steps: 'many'"),
            ("no whole number", "layers = 1", "layers = 1.5", "'1.5'"),
            ("a number out of range", "tokens = 24", "tokens = 0", "[evaluate] tokens: '0'"),
            ("neither yes nor no", "tied = yes", "tied = perhaps", "expected yes or no"),
            ("nothing", "steps = 5", "steps =", "[pretrain] steps: empty"),
            ("two sources", "[refine]", "packages = installed\n[refine]",
             "either packages or corpus"),
            ("a mixture of unknown parts", "phrases =", "parts = original=1 web=2\nphrases =",
             "web=2"),
            ("a mixture without the original", "phrases =", "parts = synthetic=2\nphrases =",
             "no original"),
            ("pairs of unknown stages", "[sft-1]", "[sft-1]\nparts = stage-3=1", "stage-3=1"),
            ("a mixture of nothing", "[sft-2]", "[sft-2]\nparts = stage-1=0", "no weight above 0"),
            ("a second phase with a shape", "[pretrain]", "[pretrain-1]\ndim = 8\n[pretrain]",
             "[pretrain] ctx: goes on with the model of [pretrain-1]"),
            ("forks of a corpus", "leave-out", "forks = 1\nleave-out", "[collect] forks"),
            ("a model that is not made", "completions = 8", "models = stage-3", "'stage-3'"),
            ("a stage without its data", "[instruct]\nbest = 40", "", "[sft-1] without [instruct]"),
            ("a missing stage", "[pack]", "", "[pack] is missing"),
            ("an unknown trainer", "[plan]", "[plan]\ntrainer = ./trane", "./trane"),
            ("a section twice", "[pack]", "[pack]\n[pack]", "already exists"),
            ("a model to export that is not made", "quantize = q8_0", "model = chatty",
             "[export] model: 'chatty'"),
            ("no INI", "[plan]", "plan", "expected [sections]")):
        check(f"{name}: the plan had it", old in good)
        refused(name, write_file(f"{PLACE}/wrong", good.replace(old, new, 1)), *words)
    refused("no file", f"{PLACE}/absent", "absent", "expected a plan")
    refused("bytes", write_file(f"{PLACE}/wrong", b"\xff\xfe[plan]"), "wrong")
    bad = write_file(f"{PLACE}/wrong", good.replace("completions = 8", "tasks = no.jsonl"))
    code, _, err = cook(bad)
    check("a benchmark that is missing is missed at the start", code == 1 and "no.jsonl" in err and
          "$ " not in err, err)
    for old, new in ("[vocabulary]\nvocab = 500", "[vocabulary]\nfrom = gone"), \
            ("languages = python", "stars = gone"), ("languages = python", "held-out-from = gone"):
        code, _, err = cook(write_file(f"{PLACE}/wrong", good.replace(old, new)))
        check(f"{new}: a file that is missing", code == 1 and "gone: no file" in err and
              "$ " not in err, err)
    bad = write_file(f"{PLACE}/wrong", good.replace("held-out = kept", "held-out = gone"))
    code, _, err = cook(bad)
    check("a held-out folder that is not there", code == 1 and "error: " in err and
          "gone: not collected, expected one of kept one two" in err, err)
    bad = write_file(f"{PLACE}/wrong", good.replace(f"corpus = {PLACE}/corpus", "packages = A;b"))
    code, _, err = cook(bad)
    check("a package with a strange name", code == 1 and "'A;b'" in err, err)
    done = start(*COOK, "plans/demo", "--until", "x")
    check_equal("a command line that is wrong", done.returncode, 2)


def test_dry_runs():
    plans = sorted(filter(os.path.isfile, glob.glob(os.path.join(ROOT, "plans", "*"))))
    check("plans of the repository", len(plans) >= 4, plans)
    for path in plans:
        name = os.path.basename(path)
        done = start(*COOK, os.path.relpath(path, ROOT), "--dry-run", "-o", f"{PLACE}/dry")
        out = done.stdout.decode()
        check(f"plans/{name}: ends well", done.returncode == 0, done.stderr.decode())
        for stage in ("collect refine vocabulary pack pretrain instruct mixture anneal sft-1 "
                      "sft-2 export evaluate report").split():
            check(f"plans/{name}: {stage}", f"# {stage}\n" in out)
        check(f"plans/{name}: runs nothing", not os.path.exists(f"{PLACE}/dry"))
        check(f"plans/{name}: hours, where a GPU is needed", ("hours of an H200" in out) ==
              ("./traincuda" in out))


def test_completions():
    header = "def f(a):\n"
    for name, text, whole, want in (
            ("cut at column 0", "    x = 1\n    return x\ndef g", False, "    x = 1\n    return x"),
            ("an unfinished line goes", "    x = 1\n    return", False, "    x = 1"),
            ("a finished one stays", "    x = 1\n    return", True, "    x = 1\n    return"),
            ("blank lines do not end it", "    x = 1\n\n    y = 2\n", True,
             "    x = 1\n\n    y = 2\n")):
        check_equal(name, measure.cut_body(text, whole), want)
    for name, body, want in (
            ("two statements", "    x = 1\n    return x", (2, 2)),
            ("nested ones count", "    if a:\n        return a", (2, 2)),
            ("a docstring is idle", '    """text"""\n    return a', (2, 1)),
            ("one is not two", "    return a", (1, 1)), ("no body", "", None),
            ("no Python", "    return (a", None)):
        check_equal(name, measure.statements(header, body), want)
    text = '@one\ndef f(a,\n      b):\n    """x"""\n    return a\n\nclass C:\n    def m(self):\n' \
           '        x = 1\n        return x\n\ndef short(): return 1\n'
    check_equal("headers", list(measure.headers_of(text)),
                [(False, "def f(a,\n      b):\n"), (True, "def m(self):\n")])


def test_plot():
    table = write_file(f"{PLACE}/t.csv", "x,a & b,c\n1,2,\n2,,0.5\n3,4,\n")
    done = start(PLOT, table, f"{PLACE}/t.svg", "--title", "<t>", "--right", "c",
                 "--right-label", "r")
    text = read("t.svg")
    check("a plot", done.returncode == 0 and "a &#38; b" in text and "&#60;t&#62;" in text, text)
    check("lines join over empty cells", re.search(r'"M[\d.]+ [\d.]+ L[\d.]+ [\d.]+ "', text),
          text)
    check("bars", start(PLOT, table, f"{PLACE}/t.svg", "--bars").returncode == 0)
    check_equal("bars are the last numbers, with names",
                re.findall(r'width="([\d.]+)" height="17"|>([^<]+)</text>', read("t.svg")),
                [("", "a &#38; b"), ("520.0", ""), ("", "4"), ("", "c"), ("65.0", ""), ("", "0.5")])
    one = write_file(f"{PLACE}/one.csv", "x,y,z\n1,2,\n2,,3\n3,,4\n")
    check("a point alone is a dot", not start(PLOT, one, f"{PLACE}/t.svg").returncode and
          re.search(r'stroke-width="6".* d="M[\d.]+ [\d.]+ h0 "', read("t.svg")))
    for name, content in (("a word", "x,y\n1,two\n"), ("too many cells", "x,y\n1,2,3\n"),
                          ("too few", "x,y,z\n1,2\n"), ("one column", "x\n1\n"),
                          ("no x", "x,y\n,1\n"),
                          ("a 0 byte", "x,y\n1,\0\n"), ("infinite", "x,y\n1,inf\n"), ("empty", ""),
                          ("many columns", "x" + ",y" * 40 + "\n")):
        bad = write_file(f"{PLACE}/bad.csv", content)
        done = start(PLOT, bad, f"{PLACE}/bad.svg")
        check(f"plot refuses {name}", done.returncode == 1 and b"error: " in done.stderr and
              b"bad.csv" in done.stderr and not os.path.exists(f"{PLACE}/bad.svg"), done)
    check_equal("plot: usage", start(PLOT, table).returncode, 2)


def main():
    os.chdir(ROOT)
    shutil.rmtree(PLACE, ignore_errors=True)
    make_corpus(f"{PLACE}/corpus")
    plan = make_plan("plan")
    for test in test_completions, test_plot, test_wrong_plans, test_dry_runs:
        test()
    shutil.rmtree(f"{PLACE}/work", ignore_errors=True)
    begun = time.monotonic()
    test_chain(plan)
    print(f"# the chain: {time.monotonic() - begun:.1f} s")
    test_again(plan)
    test_corpus()
    test_resume()
    end()


if __name__ == "__main__":
    main()
