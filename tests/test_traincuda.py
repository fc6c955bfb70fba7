#!/usr/bin/env python3
"""test_traincuda.py: starts the C program test_traincuda, which holds traincuda.cu against train.c,
and then the command line ./traincuda-emu: the same run as ./train, checkpoints that go on in
either, several processes that train together, and one clear line for what cannot be. All of it on
the CPU, through cuda/emu.h; NCCL through cuda/emu_nccl.h."""

import glob
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from badinput_files import EOS, Gguf
from check import (BIN, ROOT, SCRATCH, TESTS, TOOL, check, check_equal, end, program, relay, short,
                   skip, start)
from show_gguf import Gguf as Shown
from tok_file import chat, shard

EMU = os.path.abspath(os.path.join(ROOT, BIN, "traincuda-emu"))
CPU = os.path.abspath(os.path.join(ROOT, program("train")))
HOME = os.path.join(SCRATCH, "traincuda")
MODEL = ["-z", "model.gguf", "--dim", 32, "--heads", 2, "--kv-heads", 1, "--head-dim", 64,
         "--hidden", 40, "--layers", 2, "--ctx", 64]
RUN = ["pretrain", "text.tok", *MODEL, "--seq-len", 16, "-b", 6, "-m", 2, "--steps", 4, "--lr",
       0.003, "--save-every", 2, "--keep", 9, "--val-fraction", 0, "--warmup", 0, "-j", 1]
TEXT = ["--sample-every", 2, "-i", "abc"]


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


def ranks(n, *words, env=None):
    """n processes that train together; what each of them said."""
    children = [begin(EMU, *words, env={"RANK": str(r), "WORLD_SIZE": str(n), **(env or {})})
                for r in range(n)]
    return [finish(child) for child in children]


def plan(name, *words, env=None):
    """What --plan prints, and the sums in it."""
    child = begin(name, *words, "--plan", env=env)
    text = child.communicate(timeout=100)[0].decode()
    check_equal(f"{' '.join(map(str, words))} --plan: exit code", child.returncode, 0)
    return text, [float(line.split()[-1]) for line in text.splitlines() if " in all " in line]


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


def samples(said):
    """The first line of every text that was written on the way."""
    return [part.split("\n")[1] for part in said.split("--- sample after")[1:]]


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
    talk = [([4 + i], range(9, 9 + 6 * i)) for i in range(1, 3)] + [([5, 6], []), ([7, 8], [])]
    for name, data in (("text.tok", shard(ids)), ("chat.tok", chat(talk)),
                       ("model.gguf", Gguf().build())):
        with open(os.path.join(HOME, name), "wb") as file:
            file.write(data)


def test_one():
    train(CPU, *RUN, "-o", "cpu")
    err = train(EMU, *RUN, *TEXT, "-o", "gpu")
    close("float32: the run of ./train", "gpu", "cpu", 1e-4)
    check("memory is told", "weights" in err and "recompute level 0" in err, short(err))
    texts = samples(err)
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
    return texts


def test_ranks(texts):
    said = ranks(2, *RUN, *TEXT, "-o", "two")
    close("two ranks: the run of one", "two", "gpu", 1e-5)
    check_equal("and its texts", samples(said[0]), texts)
    check("which are two", len(texts) == 2 and all(texts), texts)
    ranks(2, *RUN, "-o", "ahead", env={"OC_EMU_ORDER": "1"})
    close("the same where streams run ahead", "ahead", "two", 1e-6)
    left = [name for name in os.listdir(HOME) if ".rank" in name]
    check_equal("nothing of the meeting is left", left, [])
    for n in 1, 3:
        copy("two", "other", 2)
        ranks(n, *RUN, "--resume", "-o", "other")
        close(f"begun by two ranks, resumed by {n}", "other", "gpu", 1e-5)
    ranks(3, *RUN, "--bf16", "--bf16-gradients", "--doc-mask", "-b", 5, "-m", 1, "-o", "three")
    train(EMU, *RUN, "--bf16", "--bf16-gradients", "--doc-mask", "-b", 5, "-m", 1, "-o", "single")
    close("three ranks, bf16, two rows for some: the run of one", "three", "single", 0.01)
    chats = ["sft", "chat.tok", *MODEL, "--seq-len", 16, "-b", 4, "-m", 1, "--steps", 3, "--lr",
             0.003, "--val-fraction", 0, "--warmup", 0, "-j", 1]
    train(EMU, *chats, "-o", "chat")
    ranks(2, *chats, "-o", "chats")
    close("nothing to learn from the last micro-batch of each", "chats", "chat", 1e-5)
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


def test_mpi():
    """mpirun brings the ranks together; NCCL adds up as without it."""
    build, binary = os.path.dirname(TESTS), os.path.join(HOME, "traincuda_mpi")
    if TOOL or not shutil.which("mpicc") or not shutil.which("mpirun"):
        return skip("MPI", "no mpicc and mpirun here, or the sanitizers are in the way")
    if b"Open MPI" not in subprocess.run(["mpirun", "--version"], capture_output=True).stdout:
        return skip("MPI", "mpirun is not that of Open MPI")
    with open(os.path.join(build, "flags"), encoding="utf-8") as file:
        compiler, *flags = file.read().split()
    done = subprocess.run(
        ["mpicc", *flags, "-O0", "-DOC_MPI", "-DOC_CUDA", "-o", binary,
         os.path.join(ROOT, "train.c"), os.path.join(build, "emu/traincuda.o"),
         *(os.path.join(build, f"lib/{name}.o")
           for name in ("run", "attention", "quants", "matmul", "gemm", "tokenizer")),
         *glob.glob(os.path.join(build, "lib/cpu/*.o")), "-lstdc++", "-lm"],
        env={**os.environ, **({} if compiler == "mpicc" else {"OMPI_CC": compiler})},
        capture_output=True, text=True, timeout=100)
    if not check("builds with mpicc", done.returncode == 0, done.stderr[-500:]):
        return None
    done = subprocess.run(["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", binary,
                           *map(str, RUN), "-o", "mpi"], cwd=HOME, capture_output=True, timeout=60)
    check("two ranks of mpirun end well", done.returncode == 0, done.stderr[-500:])
    return close("and are two ranks without it", "mpi", "two", 0)


def test_plan():
    text, need = plan(EMU, "pretrain", "--shape", "8b", "--bf16", "--bf16-gradients", "-m", 1)
    check("--plan: the 8B fits 141 GB from recompute level 1 on",
          len(need) == 4 and need[0] > 145 and 134 < need[1] < 139 and need[2] < 124 and
          need[3] < 116, text)
    half = plan(EMU, "pretrain", "--shape", "8b", "--bf16", "--bf16-gradients", "-m", 1,
                env={"WORLD_SIZE": "2"})[1]
    check("two GPUs share the optimizer's state", 38 < need[1] - half[1] < 39.5, half)
    told = train(EMU, *RUN, "--bf16", "-o", "planned")
    need = plan(EMU, *RUN, "--bf16")[1]
    check("a run needs what was planned", f": {need[0]:.4g} GB of" in told, f"{need} {told}")
    text, need = plan(CPU, "pretrain", "--shape", "1.5b")
    check("the same on a CPU, 16 bytes a parameter", " 30.49 GB" in text and need[1] < need[0],
          text)
    refused("--plan: an odd width", ["pretrain", "--shape", "1.5b", "--dim", 36, "--plan"], "36",
            "multiples of 8", code=1)
    refused("--plan without a shape", ["pretrain", "--plan"], "--tokenizer")
    refused("--plan: too long", ["pretrain", "--shape", "1.5b", "-t", 5000, "--plan"],
            "--seq-len", "4096")


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
test_ranks(test_one())
test_mpi()
test_plan()
test_refusals()
end()
