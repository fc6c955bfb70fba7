#!/usr/bin/env python3
"""test_traincuda.py: starts the C program test_traincuda, which holds traincuda.cu against train.c,
and then the command line ./traincuda-emu: the same run as ./train, checkpoints that go on in
either, several processes that train together, and one clear line for what cannot be. All of it on
the CPU, through cuda/emu.h; NCCL through cuda/emu_nccl.h."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

from badinput_files import EOS, Gguf
from check import (BIN, ROOT, SCRATCH, TESTS, check, check_equal, end, program, relay, short, skip,
                   start)
from show_gguf import Gguf as Shown
from tok_file import shard

EMU = os.path.abspath(os.path.join(ROOT, BIN, "traincuda-emu"))
CPU = os.path.abspath(os.path.join(ROOT, program("train")))
HOME = os.path.join(SCRATCH, "traincuda")
MODEL = ["-z", "model.gguf", "--dim", 32, "--heads", 2, "--kv-heads", 1, "--head-dim", 64,
         "--hidden", 40, "--layers", 2, "--ctx", 64]
RUN = ["pretrain", "text.tok", *MODEL, "--seq-len", 16, "-b", 6, "-m", 2, "--steps", 4, "--lr",
       0.003, "--save-every", 2, "--keep", 9, "--val-fraction", 0, "--warmup", 0, "-j", 1]


def begin(name, *words, env=None):
    return subprocess.Popen([name, *map(str, words)], cwd=HOME, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, **(env or {})})


def finish(child, code=0):
    out, err = child.communicate(timeout=100)
    err = err.decode(errors="replace")
    if child.returncode != code or out:
        check(f"{' '.join(child.args[1:])}: exit code {code}", False,
              f"{child.returncode}, {short(out)}, {err.strip()[-500:]}")
    return err


def train(name, *words, code=0, env=None):
    return finish(begin(name, *words, env=env), code)


def ranks(n, *words, code=0):
    """n processes that train together; what each of them said."""
    children = [begin(EMU, *words, env={"RANK": str(r), "WORLD_SIZE": str(n)}) for r in range(n)]
    return [finish(child, code) for child in children]


def record(name):
    """Loss and norm of every update."""
    with open(os.path.join(HOME, name + ".csv"), encoding="utf-8") as file:
        head, *lines = file.read().splitlines()
    columns = [head.split(",").index(key) for key in ("loss", "grad_norm")]
    return [[float(line.split(",")[column]) for column in columns] for line in lines]


def close(title, got, want, tolerance):
    a, b = record(got), record(want)
    worst = max((abs(x / y - 1) for g, w in zip(a, b) for x, y in zip(g, w)), default=1)
    check(f"{title} ({worst:.1e})", len(a) == len(b) and worst <= tolerance,
          f"{short(a)} {short(b)}")


def tensors(name):
    g = Shown(os.path.join(HOME, name))
    return g.tensors, g.data[g.start:]


def copy(name, to, step):
    """A run as it was after an update: its record and one checkpoint."""
    for old in os.listdir(HOME):
        if old.startswith(to + "."):
            os.remove(os.path.join(HOME, old))
    for part in ".csv", f".ckpt-{step:06}":
        shutil.copy(os.path.join(HOME, name + part), os.path.join(HOME, to + part))


def refused(title, words, *says, code=2, env=None):
    err = train(EMU, *words, code=code, env=env)
    line = [text for text in err.splitlines() if text.startswith("error: ")]
    check(title, len(line) == 1 and all(word in line[0] for word in says),
          f"said {short(err)}, expected one line with {says}")


def make_data():
    noise = random.Random(1)
    ids = [EOS if noise.random() < 0.04 else 4 + noise.randrange(26) for _ in range(1500)]
    for name, data in (("text.tok", shard(ids)), ("model.gguf", Gguf().build())):
        with open(os.path.join(HOME, name), "wb") as file:
            file.write(data)


def test_one():
    train(CPU, *RUN, "-o", "cpu")
    err = train(EMU, *RUN, "-o", "gpu")
    close("float32: the run of ./train", "gpu", "cpu", 1e-4)
    check("memory is told", "weights" in err and "recompute level 0" in err, short(err))
    train(EMU, *RUN, "--bf16", "--bf16-moments", "-o", "half")
    close("bf16: nearly the run of ./train", "half", "cpu", 0.02)
    train(EMU, *RUN, "--bf16", "--bf16-moments", "--recompute-level", 2, "-o", "level")
    check("recompute: the same bits", tensors("level") == tensors("half"), "they differ")
    for first, name, second in ("cpu", "on the GPU", EMU), ("gpu", "on the CPU", CPU):
        copy(first, "on", 2)
        train(second, *RUN, "--resume", "-o", "on")
        close(f"begun as {first}, resumed {name}", "on", "cpu", 1e-4)
    copy("half", "on", 2)
    train(EMU, *RUN, "--bf16", "--bf16-moments", "--resume", "-o", "on")
    check("bf16: resumed, the same bits", tensors("on.ckpt-000004") == tensors("half.ckpt-000004"),
          "they differ")


def test_ranks():
    ranks(2, *RUN, "-o", "two")
    close("two ranks: the run of one", "two", "gpu", 1e-5)
    left = [name for name in os.listdir(HOME) if ".rank" in name]
    check_equal("nothing of the meeting is left", left, [])
    for n in 1, 3:
        copy("two", "other", 2)
        ranks(n, *RUN, "--resume", "-o", "other")
        close(f"begun by two ranks, resumed by {n}", "other", "gpu", 1e-5)
    ranks(3, *RUN, "--bf16", "--bf16-gradients", "--doc-mask", "-b", 5, "-m", 1, "-o", "three")
    train(EMU, *RUN, "--bf16", "--bf16-gradients", "--doc-mask", "-b", 5, "-m", 1, "-o", "single")
    close("three ranks, bf16, two rows for some: the run of one", "three", "single", 0.01)
    for name, size in ("late.rank-1", 8), ("late.ranks", 2 * 8 + 128):
        with open(os.path.join(HOME, name), "wb") as file:
            file.write(b"x" * size)  # left by a run that was killed
    ranks(2, *RUN, "-o", "late")
    close("files of an older meeting do no harm", "late", "two", 0)
    children = [begin(EMU, *RUN[:2], *MODEL, "--seq-len", 16, "-b", 4, "--steps", 100000, "-o",
                      "stop", env={"RANK": str(r), "WORLD_SIZE": "2"}) for r in range(2)]
    for _ in range(600):
        time.sleep(0.05)
        if os.path.exists(os.path.join(HOME, "stop.csv")) and record("stop"):
            break
    children[1].send_signal(signal.SIGTERM)
    for child in children:
        finish(child, 130)
    check("a signal to one rank ends both, with a checkpoint",
          any(name.startswith("stop.ckpt-") for name in os.listdir(HOME)), os.listdir(HOME))


def test_refusals():
    refused("too little memory", [*RUN, "-o", "x"], "needed", "GB free", "--recompute-level",
            code=1, env={"OC_EMU_MEMORY": "1000000"})
    refused("--lora", ["sft", "text.tok", "--init", "gpu", "--lora", 2, "-o", "x"], "--lora",
            "./train")
    refused("--bf16-moments alone", [*RUN, "--bf16-moments", "-o", "x"], "--bf16-moments", "--bf16")
    refused("an odd width", [*RUN, "--dim", 36, "-o", "x"], "36", "multiples of 8", code=1)
    refused("a rank too many", [*RUN, "-o", "x"], "RANK", "2",
            env={"RANK": "2", "WORLD_SIZE": "2"})
    refused("no device", [*RUN, "-o", "x"], "GPU: no device", code=1, env={"OC_EMU_DEVICES": "0"})
    children = [begin(EMU, *RUN, "--lr", rate, "-o", "x", env={"RANK": rank, "WORLD_SIZE": "2"})
                for rank, rate in (("0", 0.1), ("1", 0.2))]
    for child in children:
        check("ranks of two recipes are refused", "ranks differ in the recipe" in finish(child, 1))
    children = [begin(EMU, *RUN, "--save-every", every, "-o", "x",
                      env={"RANK": rank, "WORLD_SIZE": "2"})
                for rank, every in (("0", 1), ("1", 2))]
    for child in children:  # one gathers a checkpoint, the other adds up gradients
        said = finish(child, -signal.SIGABRT)
        check("the emulation sees collectives that do not meet", "different things" in said, said)
    failed = 0
    for number in 1, 4, 9, 15, 25, 40, 70, 110:  # every call of the runtime fails once
        err = train(EMU, *RUN, "-o", "x", code=1, env={"OC_EMU_FAIL": str(number)})
        failed += err.count("error: GPU: ")
    check_equal("a call that fails ends it with one line", failed, 8)


if not os.path.exists(EMU):
    skip("traincuda", "no C++17 compiler; set CXX")
    sys.exit(0)
shutil.rmtree(HOME, ignore_errors=True)
os.makedirs(HOME)
relay("trainer", start(os.path.join(TESTS, "test_traincuda"), timeout=1000))
make_data()
test_one()
test_ranks()
test_refusals()
end()
