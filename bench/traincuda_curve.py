#!/usr/bin/env python3
"""traincuda_curve.py: the losses of a model of 100M parameters over 1000 updates, ours beside
PyTorch's: the same new model (a file of ./train), the same batches, the same AdamW.

The text is the source of Python's own library on this machine, with a vocabulary learned from it
by ./tokenizer. Prints the mean losses of every tenth of the run and the largest difference of those
means; the aim is less than 1 %. In less than 9 minutes; --emulate rehearses it, a few updates of a
tiny model on the CPU, with --python naming a Python that has PyTorch."""

import argparse
import glob
import os
import struct
import subprocess
import sys
import sysconfig

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests"))
HOME = "build/curve"
# dim, layers, heads, head_dim, hidden, vocabulary, B, T, updates; 100.7M parameters
FULL = (768, 12, 12, 64, 2048, 10240, 16, 512, 1000)
TINY = (64, 2, 1, 64, 96, 512, 2, 24, 10)


def run(*command):
    print("+", *command, flush=True)
    subprocess.run([str(word) for word in command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def batches(path, B, T, updates):
    """Writes the batches of a run: the tokens of the shard in order, from the beginning again where
    they end. Returns how many tokens there are."""
    with open(os.path.join(ROOT, HOME, "text.tok"), "rb") as file:
        data = file.read()
    width, = struct.unpack_from("<I", data, 40)
    ids = struct.unpack(f"<{(len(data) - 1024) // width}{'H' if width == 2 else 'I'}", data[1024:])
    need = B * (T + 1) * updates
    ids = (ids * (need // len(ids) + 1))[:need]
    with open(path, "wb") as file:
        file.write(struct.pack(f"<{need}I", *ids))
    return (len(data) - 1024) // width


def losses(title, command):
    print(f"+ {title}", flush=True)
    found = []
    with subprocess.Popen([str(word) for word in command], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        for line in child.stdout:
            number, loss, norm = line.split()
            found.append(float(loss))
            if int(number) % 100 == 0 or int(number) < 3:
                print(f"{title} {number} loss {loss} norm {norm}", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--emulate", action="store_true", help="rehearse on the CPU")
    parser.add_argument("--python", default=sys.executable, help="a Python that has PyTorch")
    options = parser.parse_args()
    dim, layers, heads, head_dim, hidden, vocab, B, T, updates = TINY if options.emulate else FULL
    os.makedirs(os.path.join(ROOT, HOME), exist_ok=True)
    text = sorted(glob.glob(os.path.join(sysconfig.get_paths()["stdlib"], "*.py")))
    text = text[:12] if options.emulate else \
        text + sorted(glob.glob(os.path.join(sysconfig.get_paths()["stdlib"], "[a-z]*/*.py")))
    run("./tokenizer", "train", *text[:100], "-o", f"{HOME}/vocab.gguf", "--vocab", vocab)
    run("./tokenizer", "pack", *text, "-o", f"{HOME}/text.tok", "--tokenizer", f"{HOME}/vocab.gguf")
    # One update at a learning rate of (nearly) nothing: the new model, written by our own program.
    run("./train", "pretrain", f"{HOME}/text.tok", "-o", f"{HOME}/init.gguf", "-z",
        f"{HOME}/vocab.gguf", "--dim", dim, "--layers", layers, "--heads", heads, "--head-dim",
        head_dim, "--hidden", hidden, "--ctx", T, "--seq-len", 16, "-b", 1, "-n", 1, "--lr", 1e-30,
        "--schedule", "constant", "--warmup", 0, "--val-fraction", 0, "--save-every", 0)
    n = batches(os.path.join(ROOT, HOME, "batches"), B, T, updates)
    print(f"{n} tokens of text, {updates} updates of {B} x {T}", flush=True)
    program = "build/emu/bench_traincuda" if options.emulate else "build/cuda/bench_traincuda"
    words = ["curve", f"{HOME}/init.gguf", f"{HOME}/batches", B, T, updates]
    ours = losses("ours", [program, *words])
    theirs = losses("PyTorch", [options.python, "bench/traincuda_peer.py", *words])
    if len(ours) != updates or len(theirs) != updates:
        sys.exit(f"error: {len(ours)} and {len(theirs)} updates, expected {updates}")
    part, worst = max(updates // 10, 1), 0
    for at in range(0, updates, part):
        a, b = (sum(x[at:at + part]) / part for x in (ours, theirs))
        worst = max(worst, abs(a / b - 1))
        print(f"updates {at}..{at + part - 1}: ours {a:.4f}, PyTorch {b:.4f}, {a / b - 1:+.2%}",
              flush=True)
    verdict = "ok" if worst < 0.01 else "FAIL"
    print(f"the means differ by at most {worst:.2%}: {verdict}", flush=True)
    return worst >= 0.01


if __name__ == "__main__":
    sys.exit(main())
