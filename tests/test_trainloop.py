#!/usr/bin/env python3
"""test_trainloop.py: the loop around the trainer, on a model of a few thousand weights: schedules,
the CSV, validation, checkpoints, plots, what is refused. The heart of it: a run that is killed at
any moment and resumed ends with the bytes of one that was not; OC_KILLS says how often (3)."""

import glob
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree

from badinput_files import EOS, F32, HEAD_DIM, TOKENS, Gguf, weights
from check import ROOT, SCRATCH, TESTS, TOOL, check, check_equal, end, program, short, skip
from show_gguf import Gguf as Shown
from tok_file import CHAT, NO_LOSS, chat, shard, vocab_crc

HOME = os.path.join(SCRATCH, "trainloop")
LETTER = 4  # id of "a"
COMMON = ["--seq-len", 16, "--batch", 4, "--val-fraction", 0.05, "--lr", 0.01, "-j", 1]


def place(name):
    return os.path.join(HOME, name)


def read(name):
    with open(place(name), "rb") as file:
        return file.read()


def write(name, content):
    with open(place(name), "wb") as file:
        file.write(content)
    return name


def begin(*words, env=None, **more):
    return subprocess.Popen([os.path.abspath(os.path.join(ROOT, program("train"))),
                             *map(str, words)], cwd=HOME, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, **(env or {})}, **more)


def train(*words, code=0, **more):
    """Runs train to its end; returns stderr."""
    child = begin(*words, **more)
    out, err = child.communicate(timeout=100)
    err = err.decode(errors="replace")
    if child.returncode != code or out:
        check(f"train {' '.join(map(str, words))}: exit code {code}, nothing on stdout", False,
              f"{child.returncode}, {short(out)}, {err.strip()[-500:]}")
    return err


def refused(title, *command, code=2, says=(), **more):
    err = train(*command, code=code, **more)
    line = [text for text in err.splitlines() if text.startswith("error: ")]
    check(title, len(line) == 1 and all(str(word) in line[0] for word in says),
          f"said {short(err)}, expected one line with {says}")


def record(name):
    """The lines of OUT.csv as dictionaries of numbers."""
    head, *lines = read(name + ".csv").decode().splitlines()
    return [{key: float(value) if value else None
             for key, value in zip(head.split(","), line.split(","), strict=True)}
            for line in lines]


def untimed(name):
    """OUT.csv without the columns of time."""
    return [line.split(",")[:7] for line in read(name + ".csv").decode().splitlines()]


def files(name):
    return sorted(file for file in os.listdir(HOME) if file.startswith(name + "."))


def same_run(title, got, want):
    """Two runs have ended alike: models, newest checkpoints (but for the name in them), CSV."""
    newest = [[file for file in files(name) if ".ckpt-" in file][-1] for name in (got, want)]
    check(f"{title}: the same model", tensors(got) == tensors(want), "they differ")
    check(f"{title}: the same checkpoint", tensors(newest[0]) == tensors(newest[1]), newest)
    check_equal(f"{title}: the same CSV", untimed(got), untimed(want))


def tensors(name):
    """The bytes of all tensors of a file, and what it says of the state of the run."""
    g = Shown(place(name))
    state = {key: value for key, value in g.keys.items() if key.startswith("opencoder.train.")}
    return g.tensors, state, g.data[g.start:]


def make_data():
    noise = random.Random(1)
    ids = []
    while len(ids) < 4000:
        letter = noise.randrange(26)
        for _ in range(noise.randrange(5, 40)):
            ids.append(LETTER + letter)
            letter = (letter + (1 if noise.random() < 0.9 else 3)) % 26
        ids.append(EOS)
    write("text.tok", shard(ids))
    write("other.tok", shard(ids[1000:2500]))
    examples = []
    for _ in range(120):
        letter, n = noise.randrange(26), noise.randrange(3, 20)
        examples.append(([LETTER + letter] * noise.randrange(1, 8),
                         [LETTER + (letter + i) % 26 for i in range(n)]))
    write("chat.tok", chat(examples))
    write("model.gguf", Gguf().build())
    g = Gguf()
    for column in range(8):
        g.poke("token_embd.weight", (LETTER + 25) * 32 + column, math.nan)
    write("nan.gguf", g.build())
    return ids


# ------------------------------------------------------------------------------ what a run writes
def test_schedules():
    peak, least, n = 0.01, 0.001, 20
    ratio = least / peak

    def expected(name, done, warm, tail):
        x = (done - warm) / (n - warm)
        if done < warm:
            return peak * (done + 1) / warm
        if name == "wsd":
            x = 1 - (n - done) / (n * tail) if tail else 0
            return peak * ratio ** max(x, 0)
        return {"constant": peak, "exp": peak * ratio ** x, "linear": peak + (least - peak) * x,
                "cosine": least + (peak - least) * (1 + math.cos(math.pi * x)) / 2}[name]

    for name, warm, tail in (("wsd", 4, 0), ("wsd", 0, 0.25), ("exp", 0, 0), ("cosine", 5, 0),
                             ("linear", 2, 0), ("constant", 0, 0)):
        out = f"lr_{name}_{warm}"
        err = train("pretrain", "text.tok", "--init", "model.gguf", "-o", out, "--steps", n,
                    *COMMON, "--min-lr", least, "--warmup", warm, "--schedule", name,
                    *(["--decay-fraction", tail] if tail else []))
        rates = [line["lr"] for line in record(out)]
        worst = max(abs(rate / expected(name, i, warm, tail) - 1) for i, rate in enumerate(rates))
        check(f"schedule {name}, warm-up {warm}", len(rates) == n and worst < 1e-6, rates)
        check(f"schedule {name}: a line every 10 updates",
              [line.split()[1] for line in err.splitlines() if line.startswith("step")] ==
              ["10/20", "20/20"], short(err))


def test_record():
    out = "a&b<c>.bin"
    train("pretrain", "text.tok=3", "other.tok=1", "--init", "model.gguf", "-o", out, "--steps", 30,
          *COMMON, "--lr", 0.002, "--val-every", 7, "--plot", "p.svg")
    lines = record(out)
    check_equal("CSV: steps", [line["step"] for line in lines], list(range(1, 31)))
    check("CSV: tokens", all(0 <= 64 * line["step"] - line["tokens"] < 64 for line in lines),
          short([line["tokens"] for line in lines]))
    check_equal("CSV: validation", [line["step"] for line in lines if line["val_loss"]],
                [7, 14, 21, 28, 30])
    last = lines[-1]
    check("CSV: bits per byte", abs(last["val_bits_per_byte"] / last["val_loss"] * math.log(2) - 1)
          < 0.1, last)  # a letter is a byte, an end id is none
    losses = [line["loss"] for line in lines]
    check("the loss falls", sum(losses[-10:]) / 10 < sum(losses[:3]) / 3 - 0.3, losses)
    done = subprocess.run([os.path.join(ROOT, program("run")), place(out), "-i", "abc", "-n", "4"],
                          capture_output=True, timeout=60)
    check("run continues a text with OUT", done.returncode == 0 and
          done.stdout.startswith(b"abc"), done)
    check("OUT holds no optimizer, checkpoints do", not any(
        name.startswith("opt.") for name in Shown(place(out)).tensors) and any(
            name.startswith("opt.m.") for name in Shown(place(out + ".ckpt-000030")).tensors))
    tree = ElementTree.fromstring(read("p.svg"))
    texts = [node.text for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    check("the plot: title and legend", out in texts and {
        "training loss", "smoothed", "validation loss", "learning rate"} <= set(texts), texts)
    drawn = [node.get("d").count("L") for node in tree.iter("{http://www.w3.org/2000/svg}path")]
    check("the plot: lines of 30 and of 5 points", drawn.count(29) == 3 and 4 in drawn, drawn)


def test_batches():
    losses = {}
    for micro in 1, 3, 4:
        train("pretrain", "text.tok", "--init", "model.gguf", "-o", f"m{micro}", "--steps", 12,
              *COMMON, "--lr", 0.002, "-m", micro)
        losses[micro] = [line["loss"] for line in record(f"m{micro}")]
    worst = max(abs(a - b) for n in (1, 3) for a, b in zip(losses[n], losses[4]))
    check("micro-batches: the same losses", worst < 1e-4, losses)
    check("micro-batches: the same first loss", len({round(x[0], 6) for x in losses.values()}) == 1)
    for how in ["--doc-mask"], ["--pack", "--seq-len", 48], ["--loss-mean", "hf"]:
        train("sft", "chat.tok", "--init", "model.gguf", "-o", "sft" + how[0], "--epochs", 2,
              *COMMON, "-m", 2, "--val", "chat.tok", *how)
        lines = record("sft" + how[0])
        check(f"sft {how}: falls", lines[-1]["val_loss"] < lines[0]["loss"] - 0.2, short(lines))
    check_equal("sft: two epochs are 60 updates", len(record("sft--doc-mask")), 60)
    check("sft --pack: far fewer", len(record("sft--pack")) < 50, len(record("sft--pack")))


def test_loss_means():
    """One update of two rows with unequal numbers of targets; --lr 0 shows each alone."""
    def losses(name, *words):
        train("sft", "chat.tok", "--init", "model.gguf", "-o", name, *COMMON, "--lr", 0, "-m", 1,
              *words)
        return [line["loss"] for line in record(name)]

    first, second = losses("alone", "--batch", 1, "--steps", 2)
    (tokens,), (hf,) = (losses(how, "--batch", 2, "--steps", 1, "--loss-mean", how)
                        for how in ("tokens", "hf"))
    check("hf: the mean of the means", abs(hf - (first + second) / 2) < 1e-5, (hf, first, second))
    check("tokens: another mean", abs(hf - tokens) > 1e-4 and
          min(first, second) < tokens < max(first, second), (tokens, hf))


def test_defaults():
    """Those of the paper's two stages of fine-tuning, where model and data are large enough."""
    tiny = ["-z", "model.gguf", "--dim", 4, "--layers", 1, "--heads", 1, "--ctx", 2048]
    write("many.tok", chat([([LETTER], [LETTER + 1])] * 4200))
    for stage, row, batch, rate, updates in (1, 1216, 4096, 2e-5, 1), (2, 1500, 512, 5e-5, 24):
        name = f"stage{stage}"
        err = train("sft", "many.tok", *tiny, "-o", name, "--stage", stage, "--val-fraction", 0)
        says = f"rows of {row} an epoch, {updates} updates of {batch} rows"
        check(f"stage {stage}: {says}", says in err, short(err))
        check(f"stage {stage}: its peak", abs(max(line["lr"] for line in record(name)) / rate - 1)
              < 1e-6, record(name)[0])


def test_new_models():
    shape = ["--dim", 32, "--layers", 1, "--heads", 2, "--hidden", 64, "--tokenizer", "model.gguf"]
    for name, more in (("new1", ["-j", 1]), ("new2", ["-j", 2]), ("seed", ["--seed", 1]),
                       ("tied", ["--tied"]), ("scaled", ["--init-scaled"])):
        train("pretrain", "text.tok", "-o", name, *shape, *COMMON, "--steps", 1, "--lr", 0, *more)
    g = {name: Shown(place(name)) for name in ("new1", "seed", "tied", "scaled")}
    check("new weights do not depend on threads", tensors("new1") == tensors("new2"))
    check("but on the seed", tensors("new1") != tensors("seed"))
    check("a tied model has no head", "output.weight" not in g["tied"].tensors)
    numbers = [x for row in g["new1"].rows("blk.0.ffn_gate.weight") for x in row]
    mean = sum(numbers) / len(numbers)
    std = math.sqrt(sum((x - mean) ** 2 for x in numbers) / len(numbers))
    check("normal(0, 0.02)", abs(mean) < 0.002 and abs(std - 0.02) < 0.002, (mean, std))
    check("norms are 1", set(g["new1"].rows("output_norm.weight")[0]) == {1.0})
    plain, scaled = (g[name].rows("blk.0.ffn_down.weight")[0][0] for name in ("new1", "scaled"))
    check("--init-scaled: 1 / sqrt(2 L)", abs(scaled / plain * math.sqrt(2) - 1) < 1e-6)


def test_sample():
    err = train("pretrain", "text.tok", "--init", "model.gguf", "-o", "sample", "--steps", 4,
                *COMMON, "--sample-every", 2, "--prompt", "abc", "--temp", 0)
    check("samples", err.count("--- sample after") == 2 and "\nabc" in err, short(err))


# -------------------------------------------------------------------------- checkpoints and kills
LONG = ["pretrain", "text.tok=2", "other.tok=1", "--init", "model.gguf", "--steps", 400, *COMMON,
        "--save-every", 9, "--val-every", 50, "--doc-mask"]


def test_kills():
    noise = random.Random(os.environ.get("OC_SEED", 7))
    begun = time.monotonic()
    train(*LONG, "-o", "whole")
    seconds = time.monotonic() - begun
    kills = 0
    write("killed.ckpt-000009.tmp-999999999", b"of a process that is gone")
    write(f"killed.ckpt-000018.tmp-{os.getpid()}", b"of one that is not")
    while kills < int(os.environ.get("OC_KILLS", 3)):
        child = begin(*LONG, "-o", "killed", "--resume")
        try:
            child.communicate(timeout=noise.uniform(0, seconds * 0.7))
            for name in files("killed"):
                os.remove(place(name))  # it was faster than the kill: once more, from the start
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            kills += 1
    train(*LONG, "-o", "killed", "--resume")
    same_run(f"killed {kills} times", "killed", "whole")
    left = [name for name in files("killed") if ".tmp-" in name]
    check("temporary files of dead processes are gone, of living ones not",
          left in ([f"killed.ckpt-000018.tmp-{os.getpid()}"], []), left)
    check_equal("two checkpoints are kept", [name for name in files("whole") if "ckpt" in name],
                ["whole.ckpt-000396", "whole.ckpt-000400"])
    train(*LONG, "-o", "killed", "--resume")
    same_run("resumed when all was done", "killed", "whole")


def test_signals():
    for number, name in (signal.SIGINT, "int"), (signal.SIGTERM, "term"):
        for _ in range(20):  # where the machine is busy, the run may be over before the signal
            child = begin(*LONG, "-o", name)
            while child.poll() is None and (not os.path.exists(place(name + ".csv"))
                                            or read(name + ".csv").count(b"\n") < 6):
                time.sleep(0.005)
            child.send_signal(number)
            _, err = child.communicate(timeout=30)
            if child.returncode:
                break
            for file in files(name):
                os.remove(place(file))
        check_equal(f"{name}: exit code", child.returncode, 130)
        check(f"{name}: says so", b"stopped after" in err, short(err))
        step = int(Shown(place([f for f in files(name) if "ckpt" in f][-1]))
                   .keys["opencoder.train.step"])
        check(f"{name}: a checkpoint of the last update", len(record(name)) == step, step)
        train(*LONG, "-o", name, "--resume")
        same_run(f"{name}, resumed", name, "whole")


def test_resume():
    base = ["pretrain", "text.tok", "--init", "model.gguf", *COMMON, "--save-every", 5,
            "--keep", 3, "-o", "r", "--val-rows", 7]
    err = train(*base, "--steps", 20, "--resume")
    check("--resume of nothing: says that it begins anew", "a new run" in err, short(err))
    check_equal("--keep 3", [name for name in files("r") if "ckpt" in name],
                ["r.ckpt-000010", "r.ckpt-000015", "r.ckpt-000020"])
    refused("a checkpoint and no --resume", *base, "--steps", 20, code=1,
            says=["r.ckpt-000020", "--resume"])
    for title, word, *change in (("--lr", "--lr", "--lr", 0.02), ("--steps", "--steps", "--steps",
                                 21), ("--seed", "--seed", "--seed", 3), ("a flag", "--doc-mask",
                                 "--doc-mask"), ("schedule", "exp", "--schedule", "exp")):
        refused(f"--resume with another {title}", *base, "--steps", 20, *change, "--resume",
                says=[word, "r.ckpt-000020"])
    refused("--resume with other data", "pretrain", "other.tok", *base[2:], "--steps", 20,
            "--resume", says=["other.tok", "text.tok"])
    refused("--resume with another command", "anneal", *base[1:], "--steps", 20, "--resume",
            says=["command anneal", "command pretrain"])
    model = tensors("r")
    damaged = bytearray(read("r.ckpt-000020"))
    damaged[-40] ^= 1
    write("r.ckpt-000020", damaged)
    write("r.ckpt-000015", read("r.ckpt-000015")[:-100])
    err = train(*base, "--steps", 20, "--resume")
    check("damaged checkpoints are named and passed over", all(
        f"r.ckpt-0000{n}: " in err for n in (20, 15)) and "going on from r.ckpt-000010" in err,
          short(err))
    check("and the run ends as before", tensors("r") == model)
    check_equal("with the same files", [name for name in files("r") if "ckpt" in name],
                ["r.ckpt-000010", "r.ckpt-000015", "r.ckpt-000020"])


def test_full_disk():
    if TOOL == "tsan":
        return skip("a full disk", "ThreadSanitizer writes a file of its own, and needs it")
    base = ["pretrain", "text.tok", "--init", "model.gguf", *COMMON, "--save-every", 5, "-o", "d",
            "--steps", 10]
    train(*base)
    os.remove(place("d.ckpt-000010"))
    before = read("d.ckpt-000005")
    most = len(before) // 2
    refused("a full disk", *base, "--resume", code=1, says=["d.ckpt-000010", "cannot write"],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    check("leaves the older checkpoint and no temporary file", read("d.ckpt-000005") == before and
          files("d") == ["d.ckpt-000005", "d.csv"], files("d"))
    train(*base, "--resume")


def test_bad_numbers():
    base = ["pretrain", "text.tok", "--init", "nan.gguf", *COMMON, "--batch", 1, "--steps", 40]
    refused("not finite", *base, "-o", "nan", code=1, says=["token_embd.weight", "finite", "nan"])
    train(*base, "-o", "nan", "--save-every", 1, code=1)
    err = train(*base, "-o", "skip", "--skip-bad", 40)
    g = Shown(place("skip.ckpt-000040"))
    skipped = g.keys["opencoder.train.skipped_bad"]
    check("--skip-bad", 0 < skipped < 40 and err.count("not finite") == skipped and
          g.keys["opencoder.train.updates"] == 40 - skipped, skipped)
    check_equal("--skip-bad: no loss in the CSV", skipped,
                sum(line["loss"] is None for line in record("skip")))
    refused("--skip-bad 1", *base, "-o", "skip1", "--skip-bad", 1, code=1, says=["update"])
    train("pretrain", "text.tok", "--init", "model.gguf", "-o", "spike", "--spike", 1.0001,
          *COMMON, "--steps", 60, "--lr", 0)
    spikes = Shown(place("spike.ckpt-000060")).keys["opencoder.train.skipped_spike"]
    check("--spike", 0 < spikes < 40, spikes)
    write("mute.tok", chat([([LETTER] * 20, [LETTER + 1])] * 8))
    err = train("sft", "mute.tok", "--init", "model.gguf", "-o", "mute", *COMMON, "--epochs", 1)
    check("no targets, no update", err.count("no targets") == 2 and Shown(place(
        "mute.ckpt-000002")).keys["opencoder.train.skipped_empty"] == 2, short(err))


def test_lora_and_anneal():
    lora = ["sft", "chat.tok", "--init", "model.gguf", "--lora", 2, *COMMON, "--steps", 20,
            "--save-every", 8, "--val-every", 8]
    train(*lora, "-o", "lora")
    keys = Shown(place("lora")).keys
    check("an adapter's keys", [keys.get(key) for key in (
        "general.architecture", "general.type", "adapter.type", "adapter.lora.alpha")] ==
        ["llama", "adapter", "lora", 4.0], keys)
    train(*lora, "-o", "lora2")
    os.remove(place("lora2.ckpt-000020"))
    train(*lora, "-o", "lora2", "--resume")
    same_run("an adapter, resumed", "lora2", "lora")
    pretrain = ["pretrain", "text.tok", "--init", "model.gguf", *COMMON, "--steps", 10]
    train(*pretrain, "-o", "pre")
    for command, updates in ("anneal", 15), ("sft", 5):
        train(command, "text.tok", "--init", "pre.ckpt-000010", *COMMON, "--steps", 5, "-o",
              "from_" + command)
        check_equal(f"{command}: updates of the optimizer", updates, Shown(place(
            f"from_{command}.ckpt-000005")).keys["opencoder.train.updates"])
    rates = [line["lr"] for line in record("from_anneal")]
    check("anneal: from the peak down, exponentially", rates[0] == 0.01 and all(
        abs(b / a - (1e-5 / 0.01) ** 0.2) < 1e-6 for a, b in zip(rates, rates[1:])), rates)


# -------------------------------------------------------------------- resuming, whatever was asked
FEATURES = {
    "three sources": ["pretrain", "text.tok=3", "other.tok=1", "chat.tok=0.5", "--doc-mask"],
    "text and chats, packed": ["pretrain", "text.tok", "chat.tok", "--pack", "--seq-len", 48],
    "chats, packed": ["sft", "chat.tok", "--pack", "--epochs", 0.7, "--seq-len", 40],
    "chats": ["sft", "chat.tok", "--val", "text.tok", "--val-every", 2, "-m", 3],
    "recompute": ["pretrain", "text.tok", "--recompute", "--doc-mask", "-m", 2],
    "hf": ["sft", "chat.tok", "--loss-mean", "hf", "-m", 3, "--stage", 2],
    "a packed adapter": ["sft", "chat.tok", "text.tok", "--lora", 3, "--recompute", "--pack",
                         "--seq-len", 30],
    "updates that are not finite": ["pretrain", "text.tok", "--init", "nan.gguf", "--skip-bad", 99,
                                    "--batch", 1],
    "spikes": ["pretrain", "text.tok", "--spike", 1.0001, "--steps", 40, "--lr", 1e-6,
               "--save-every", 25],
    "no targets": ["sft", "mute.tok"],
    "samples": ["pretrain", "text.tok", "--sample-every", 1, "--prompt", "a", "--plot", "f.svg"],
    "a decay": ["pretrain", "text.tok", "--decay-fraction", 0.5, "--warmup", 4, "--clip", 0.1],
    "a new tied model": ["pretrain", "text.tok", "-z", "model.gguf", "--dim", 16, "--heads", 2,
                         "--kv-heads", 1, "--layers", 2, "--tied", "--ctx", 64],
}


def test_features():
    """What a kill leaves: a record that is ahead and ends in half a line, checkpoints that were to
    be removed. A checkpoint is written before any is removed, a line before any checkpoint."""
    write("mute.tok", chat([([LETTER] * 20, [LETTER + 1])] * 8))
    for number, (title, (command, *words)) in enumerate(FEATURES.items()):
        init = [] if "-z" in words else ["--init", "model.gguf"]
        steps = [] if "--epochs" in words else ["--steps", 8]
        words = [command, *init, *steps, *COMMON, "--save-every", 1, *words]
        whole, got = f"f{number}", f"g{number}"
        train(*words, "-o", whole, "--keep", 99)
        newest = [name for name in files(whole) if ".ckpt-" in name]
        for name in newest[:len(newest) // 2]:
            shutil.copy(place(name), place(name.replace(whole, got)))
        write(got + ".csv", read(whole + ".csv")[:-11])
        train(*words, "-o", got, "--resume", "--keep", 2)
        same_run(f"{title}, resumed", got, whole)
        check(f"{title}: two checkpoints are left",
              len([name for name in files(got) if ".ckpt-" in name]) == 2, files(got))
        check(f"{title}: no number is missing", None not in [line["loss"] for line in record(got)]
              or title in ("updates that are not finite", "no targets"), short(record(got)))


def test_threads():
    shape = ["-z", "model.gguf", "--dim", 80, "--heads", 4, "--kv-heads", 2, "--layers", 2,
             "--ctx", 128]
    runs = {"a new model": ["pretrain", "text.tok", "chat.tok", *shape, "--doc-mask"],
            "an adapter": ["sft", "chat.tok", "--init", "j1.0/x", "--lora", 4, "--pack"]}
    for number, (title, (command, *words)) in enumerate(runs.items()):
        made = []
        for threads in 1, 2, 3:
            home = f"j{threads}.{number}"
            os.mkdir(place(home))
            train(command, *words, *COMMON, "--seq-len", 100, "--steps", 4, "--save-every", 2,
                  "-o", home + "/x", "-j", threads)
            made.append([read(f"{home}/x{end}") for end in ("", ".ckpt-000002", ".ckpt-000004")])
        check(f"{title}: the bytes of 1, 2 and 3 threads", made[0] == made[1] == made[2])


def test_borders():
    """How many updates an epoch has, down to less than one."""
    write("tiny.tok", shard([LETTER + i % 26 for i in range(81)]))  # 5 rows of 16 targets
    for words, rows, updates in (
            (["--batch", 5], 5, 1), (["--batch", 4], 5, 1), (["--batch", 6], 5, 1),
            (["--batch", 2], 5, 2), (["--batch", 2, "--epochs", 2], 5, 5),
            (["--batch", 2, "--epochs", 1.99], 5, 4), (["--epochs", 0.001], 5, 1),
            (["--batch", 1, "--epochs", 0.8], 5, 4), (["--batch", 1, "--tokens", 79], 5, 4),
            (["--batch", 1, "--tokens", 80], 5, 5), (["--batch", 2, "--tokens", 1], 5, 1),
            (["--batch", 0, "--batch-tokens", 33], 5, 2), (["--seq-len", 1, "--batch", 7], 80, 11),
            (["--batch", 0, "--batch-tokens", 1], 5, 5), (["--seq-len", 64, "--batch", 1], 2, 2)):
        err = train("pretrain", "tiny.tok", "--init", "model.gguf", *COMMON, "--val-fraction", 0,
                    "-o", "border", *words)
        check(f"{' '.join(map(str, words))}: {rows} rows, {updates} updates",
              f" {rows} rows of" in err and f" {updates} updates of" in err
              and len(record("border")) == updates, short(err))
        for name in files("border"):
            os.remove(place(name))
    answers = [([LETTER] * 3, [LETTER + 1] * n) for n in (1, 11, 12, 13, 40)]
    write("long.tok", chat([*answers, ([LETTER] * 15, [1]), ([LETTER] * 16, [1]),
                            ([LETTER] * 50, [1] * 9)]))
    train("sft", "long.tok", "--init", "model.gguf", *COMMON, "--val-fraction", 0, "--batch", 8,
          "--epochs", 1, "-o", "long")
    (line,) = record("long")
    check_equal("examples are cut to T tokens", line["tokens"], 3 + 13 + 14 + 5 * 15)
    check("and the mean is over what is left", math.isfinite(line["loss"]), line)
    losses = {}
    for micro in 1, 3, 8:
        train("sft", "long.tok", "chat.tok", "--init", "model.gguf", *COMMON, "--batch", 8, "-m",
              micro, "--steps", 6, "--lr", 0.001, "-o", f"part{micro}")
        losses[micro] = [line["loss"] for line in record(f"part{micro}")]
    check("micro-batches of chats of all lengths: the same losses", all(
        abs(a - b) < 1e-5 for n in (1, 3) for a, b in zip(losses[n], losses[8])), losses)


def test_files_of_others():
    """Checkpoints and models go on through convert and come back."""
    def convert(*words, code=0):
        done = subprocess.run([os.path.join(ROOT, program("convert")), *words], cwd=HOME,
                              capture_output=True, timeout=60)
        check(f"convert {' '.join(words)}", done.returncode == code, short(done.stderr))

    write("one.tok", shard([LETTER + i % 5 for i in range(17)]))  # one row: every update has it
    base = ["--seq-len", 16, "--batch", 2, "--lr", 0.003, "--schedule", "constant", "-j", 1,
            "--warmup", 0, "--val-fraction", 0, "--min-lr", 0.001]
    train("pretrain", "one.tok", "--init", "model.gguf", *base, "--steps", 12, "-o", "straight",
          "--save-every", 5, "--keep", 9)
    ck = "straight.ckpt-000005"
    convert("--check", "straight")
    convert("--check", ck)
    convert(ck, "kept", "--keep-optimizer")
    convert(ck, "bare")
    convert(ck, "small", "--keep-optimizer", "-q", "q8_0")
    for name, updates in (ck, 12), ("kept", 12), ("bare", 7), ("small", None):
        out = "on_" + name[:8]
        err = train("anneal", "one.tok", "--init", name, *base, "--steps", 7, "-o", out)
        got = Shown(place(out + ".ckpt-000007")).keys["opencoder.train.updates"]
        if updates:
            check_equal(f"anneal from {name}: updates", got, updates)
        check(f"anneal from {name}: says what is not there", ("begins anew" in err) == (got == 7),
              short(err))
        same = tensors(out)[::2] == tensors("straight")[::2]
        if updates:
            check(f"anneal from {name}: as if it had gone on", same == (updates == 12), "differs")
    check("moments, too", tensors("on_kept.ckpt-000007")[2] == tensors("straight.ckpt-000012")[2])
    convert("model.gguf", "q8.gguf", "-q", "q8_0")
    convert("q8.gguf", "f32.gguf", "-q", "f32")
    for name in "q8", "f32":
        for how in [], ["--lora", 2]:
            train("sft", "chat.tok", "--init", name + ".gguf", *COMMON, "--steps", 4, *how, "-o",
                  f"from_{name}{len(how)}")
    for kind, how in ("all weights", 0), ("an adapter", 2):
        check(f"{kind} from q8_0: its weights in f32",
              tensors(f"from_q8{how}")[2] == tensors(f"from_f32{how}")[2], "differs")
    for words in ["from_q80"], ["q8.gguf", "--lora", "from_q82"]:
        done = subprocess.run([os.path.join(ROOT, program("run")), *words, "-i", "abc", "-n", "3"],
                              cwd=HOME, capture_output=True, timeout=60)
        check(f"run {' '.join(words)}", done.returncode == 0 and done.stdout[:3] == b"abc", done)


# ------------------------------------------------------------------------------------ what is not
def test_refusals(ids):
    base = ["pretrain", "text.tok", "--init", "model.gguf", "-o", "x"]
    for words, says in (
            (["teach", "text.tok"], ["teach", "pretrain"]), (["pretrain", "-o", "x"], ["data"]),
            (base[:-2], ["-o"]), (["-o", "x"], ["no command"]),
            ([*base, "--schedule", "flat"], ["--schedule", "flat", "cosine"]),
            ([*base, "--schedule", "w"], ["--schedule"]),
            ([*base, "--steps", 3, "--epochs", 2], ["--steps", "--epochs"]),
            ([*base, "--lr", "fast"], ["--lr", "fast"]), ([*base, "--steps", -1], ["--steps"]),
            ([*base, "--stage", 2], ["--stage"]), ([*base, "--seq-len", 65], ["--seq-len", 64]),
            ([*base, "--shape", "tiny"], ["--init"]), ([*base, "--prompt", "a"], ["--prompt"]),
            ([*base, "--lora-alpha", 2], ["--lora-alpha"]), ([*base, "--pack"], ["--pack"]),
            ([*base, "--cpu", "abacus"], ["--cpu", "abacus"]),
            ([*base, "--loss-mean", "median"], ["--loss-mean"]),
            ([*base, "--decay-fraction", 0.1, "--schedule", "exp"], ["--decay-fraction"]),
            ([*base, "--schedule", "exp", "--min-lr", 0], ["--min-lr"]),
            ([*base, "--schedule", "exp", "--lr", 0], ["--lr"]),
            ([*base, "--beta2", 1], ["--beta2"]), ([*base, "--eps", 0], ["--eps"]),
            (["pretrain", "text.tok", "-o", "x"], ["--tokenizer"]),
            (["pretrain", "text.tok", "-o", "x", "-z", "model.gguf"], ["--shape"]),
            (["pretrain", "text.tok", "-o", "x", "-z", "model.gguf", "--shape", "9b"], ["9b"]),
            (["pretrain", "text.tok", "-o", "x", "-z", "model.gguf", "--shape", "tiny",
              "--kv-heads", 3], ["multiple"]),
            (["pretrain", "text.tok=2", "other.tok", *base[2:]], ["weight"]),
            (["pretrain", "text.tok=x", *base[2:]], ["text.tok=x"]),
            (["sft", "text.tok", "-o", "x", "-z", "model.gguf", "--shape", "tiny", "--lora", 2],
             ["--init"])):
        refused("refused: " + " ".join(map(str, words)), *words, says=says)
    for title, content, says in (
            ("no shard", b"text", ["header"]), ("magic", shard(ids, magic=b"octolens"), [".tok"]),
            ("vocabulary", shard(ids, vocab_crc=vocab_crc() ^ 1), ["vocabulary"]),
            ("a larger vocabulary", shard(ids, vocab_size=len(TOKENS) + 1), ["vocabulary"]),
            ("checksum", shard(ids, data_crc=1), ["damaged"]), ("one token", shard([5]), ["2"]),
            ("an id", shard([5, 6, 32, 7, EOS] * 10), ["id 32", "32"]),
            ("no example", shard([EOS | NO_LOSS] * 3, CHAT, 4), ["examples"]),
            ("an open example", shard([5, 6], CHAT, 4), ["end id"]),
            ("documents", shard([5, EOS, 6, EOS], CHAT, 4, n_documents=1), ["documents"])):
        write("bad.tok", content)
        refused(f"shard refused: {title}", "pretrain", "bad.tok", *base[2:], *COMMON, code=1,
                says=["bad.tok", *says])
    refused("no such shard", "pretrain", "none.tok", *base[2:], code=1, says=["none.tok"])
    refused("no such directory", *base[:-1], "nowhere/x", code=1, says=["nowhere/x"])
    refused("OUT is a directory", *base[:-1], ".", code=1, says=[".", "regular"])
    refused("no place for the plot", *base, "--plot", "nowhere/p.svg", code=1,
            says=["nowhere/p.svg"])
    done = subprocess.run([program("train"), "sft", "--stage", "2", "-h"], capture_output=True,
                          cwd=ROOT, timeout=20)
    check("-h shows the defaults of a stage", done.returncode == 0 and b"[5e-05]" in done.stdout,
          short(done.stdout))


def test_mpi():
    binary = place("train_mpi")
    build = os.path.dirname(TESTS)
    if TOOL or not shutil.which("mpicc") or not shutil.which("mpirun"):
        return skip("MPI", "no mpicc and mpirun here, or the sanitizers are in the way")
    if b"Open MPI" not in subprocess.run(["mpirun", "--version"], capture_output=True).stdout:
        return skip("MPI", "mpirun is not that of Open MPI")
    with open(os.path.join(build, "flags"), encoding="utf-8") as file:
        compiler, *flags = file.read().split()
    done = subprocess.run(
        ["mpicc", *flags, "-O1", "-DOC_MPI", "-o", binary, os.path.join(ROOT, "train.c"),
         *(os.path.join(build, f"lib/{name}.o")
           for name in ("run", "attention", "quants", "matmul", "gemm", "tokenizer")),
         *glob.glob(os.path.join(build, "lib/cpu/*.o")), "-lm"],
        env={**os.environ, **({} if compiler == "mpicc" else {"OMPI_CC": compiler})},
        capture_output=True, text=True, timeout=100)
    if not check("builds with mpicc", done.returncode == 0, done.stderr[-500:]):
        return None
    base = ["pretrain", "text.tok", "--init", "model.gguf", *COMMON, "--lr", 0.001, "--steps", 12,
            "-m", 2, "--save-every", 5]
    train(*base, "-o", "one")

    def two(*more):
        return subprocess.run(["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2",
                               binary, *map(str, base), "-o", "two", *more], cwd=HOME,
                              capture_output=True, timeout=60)

    done = two()
    check("two ranks end well", done.returncode == 0, done.stderr[-500:])
    for key in "loss", "grad_norm", "tokens", "val_loss":
        pairs = [(a[key], b[key]) for a, b in zip(record("one"), record("two"), strict=True)
                 if a[key] is not None]
        check(f"two ranks: {key} of one", all(abs(a - b) < 1e-5 * abs(a) for a, b in pairs),
              short(pairs))
    csv, model = untimed("two"), tensors("two")
    os.remove(place("two.ckpt-000012"))
    done = two("--resume")
    check("two ranks resume", done.returncode == 0 and untimed("two") == csv
          and tensors("two") == model, done.stderr[-500:])
    os.remove(place("two.ckpt-000012"))  # and a rank that does not see the other's checkpoint:
    os.makedirs(place("elsewhere"))
    for name in "text.tok", "model.gguf":
        shutil.copy(place(name), place("elsewhere"))
    rank = ["-np", "1", "-wdir", HOME, binary, *map(str, base), "-o", "two", "--resume"]
    other = [place("elsewhere") if word == HOME else word for word in rank]
    for _ in range(3):
        done = subprocess.run(["mpirun", "--allow-run-as-root", "--oversubscribe", *rank, ":",
                               *other], capture_output=True, timeout=60)
        if b"error: " in done.stderr:  # mpirun may end before it has passed on a rank's last words
            break
    check("ranks that differ are refused", done.returncode == 1
          and b"ranks differ in updates done" in done.stderr, done.stderr[-500:])
    return None


shutil.rmtree(HOME, ignore_errors=True)
os.makedirs(HOME)
tokens = make_data()
for test in (test_schedules, test_record, test_batches, test_loss_means, test_defaults,
             test_new_models, test_sample, test_kills, test_signals, test_resume, test_full_disk,
             test_bad_numbers, test_lora_and_anneal, test_features, test_threads, test_borders,
             test_files_of_others):
    test()
test_refusals(tokens)
test_mpi()
end()
