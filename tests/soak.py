#!/usr/bin/env python3
"""soak.py [--tokens N] [--turns N] [--updates N]: long runs, watched from outside.

A long text, a long chat whose context is refilled many times, and a training that is interrupted
and resumed again and again: resident memory and open files stay what they were after the first
tenth, the last quarter is as fast as the first, and a second run gives the same bytes. The numbers
found are printed for bench/results/reliability.md. Speed is judged by processor time, which other
work on the machine does not change much."""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import time

import chat_model
import torture
from badinput_files import Gguf
from check import ROOT, SCRATCH, check, end, program, short

HOME = os.path.join(SCRATCH, f"soak-{os.getpid()}")
GROWTH = 1024  # KB of resident memory that may come after the first tenth
TICK = os.sysconf("SC_CLK_TCK")


def place(name):
    return os.path.join(HOME, name)


class Watched:
    """A program under observation: (share of its output, KB, descriptors, seconds of processor)."""

    def __init__(self, *words, stdin=subprocess.DEVNULL):
        self.child = subprocess.Popen([os.path.join(ROOT, program(words[0])), *map(str, words[1:])],
                                      cwd=HOME, stdin=stdin, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE,
                                      env={**os.environ, "OMP_WAIT_POLICY": "passive"})
        self.seen = []
        self.sum = hashlib.sha256()

    def look(self, amount):
        """Of a child that has ended, there is nothing more to be seen."""
        try:
            with open(f"/proc/{self.child.pid}/status", encoding="utf-8") as file:
                status = dict(line.split(":", 1) for line in file)
            with open(f"/proc/{self.child.pid}/stat", encoding="utf-8") as file:
                ticks = sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))
            files = len(os.listdir(f"/proc/{self.child.pid}/fd"))
            self.seen.append((amount, int(status["VmRSS"].split()[0]), files, ticks / TICK))
        except (OSError, KeyError):
            pass

    def judge(self, name, total):
        early = [s for s in self.seen if s[0] >= total * 0.1]
        if not check(f"{name}: ends well", self.child.returncode == 0 and len(early) > 3,
                     f"{self.child.returncode}, seen {len(self.seen)} times"):
            return
        grown = max(s[1] for s in early) - early[0][1]
        check(f"{name}: {early[0][1]} KB, which grow by {grown}", grown <= GROWTH, grown)
        files = {s[2] for s in early}
        check(f"{name}: {max(files)} open files", len(files) == 1, files)

    def steady(self, name, total):
        """How much longer the last quarter takes than the second one; the first warms up."""
        def spent(low, high):
            times = [s[3] for s in self.seen if low * total <= s[0] <= high * total]
            return times[-1] - times[0] if len(times) > 1 else 0

        first, last = spent(0.25, 0.5), spent(0.75, 1.0)
        slower = last / first if first else 1
        check(f"{name}: the last quarter takes {slower:.2f} times the second", slower < 1.3 or
              last - first < 0.1, f"{last} and {first} s")


def generate(tokens):
    sums = []
    for _ in range(2):
        w = Watched("run", place("text.gguf"), "-q", "-i", "abc", "-n", tokens, "-j", 1)
        got, last = 0, 0
        while block := os.read(w.child.stdout.fileno(), 4096):
            w.sum.update(block)
            got += len(block)
            if got - last > tokens / 50:
                w.look(got)
                last = got
        w.child.wait()
        sums.append((w.sum.digest(), got))
    name = f"{tokens} tokens"
    w.judge(name, got)
    w.steady(name, got)
    check(f"{name}: that many, and the same again", len(set(sums)) == 1 and got >= tokens,
          f"{got}, {sums}")


def chat(turns):
    sums = []
    for _ in range(2):
        noise = random.Random(8)
        w = Watched("run", place("chat.gguf"), "-q", "-m", "chat", "-n", 20, "-c", 256, "-j", 1,
                    stdin=subprocess.PIPE)
        for turn in range(turns):
            text = "".join(noise.choice("abcdefgh ") for _ in range(12)).strip() + "x\n"
            w.child.stdin.write(text.encode())
            w.child.stdin.flush()
            answer = b""
            while not answer.endswith(b"\n"):
                block = os.read(w.child.stdout.fileno(), 4096)
                if not block:
                    break
                answer += block
            w.sum.update(answer)
            if turn % max(turns // 50, 1) == 0:
                w.look(turn)
        w.child.stdin.close()
        w.child.stdout.read()
        w.child.wait()
        sums.append(w.sum.digest())
    w.judge(f"{turns} turns of a chat", turns)
    w.steady(f"{turns} turns of a chat", turns)
    check(f"{turns} turns of a chat: the same again", len(set(sums)) == 1, "they differ")


def train(updates):
    """Interrupted by SIGTERM, which writes a checkpoint, at random times until it is done."""
    noise = random.Random(4)
    words = ["train", "pretrain", place("text.tok"), "--init", place("m.gguf"), "--steps", updates,
             "--seq-len", 16, "--batch", 2, "--save-every", max(updates // 20, 1), "-j", 1,
             "--val-fraction", 0]
    w = Watched(*words, "-o", "whole")
    while w.child.poll() is None:
        try:
            with open(place("whole.csv"), "rb") as file:
                w.look(file.read().count(b"\n"))
        except OSError:
            pass
        time.sleep(0.1)
    w.child.communicate()
    w.judge(f"{updates} updates", updates)
    w.steady(f"{updates} updates", updates)
    seconds = max(s[3] for s in w.seen)
    resumed, done = 0, None
    while done is None or done.returncode:
        done = Watched(*words, "-o", "parts", "--resume").child
        try:
            _, said = done.communicate(timeout=noise.uniform(0.2, 0.2 + seconds / 5))
        except subprocess.TimeoutExpired:
            done.send_signal(signal.SIGTERM)
            _, said = done.communicate()
        if done.returncode not in (0, 130, 143):
            break
        resumed += 1
    with open(place("whole"), "rb") as one, open(place("parts"), "rb") as other:
        check(f"{updates} updates in {resumed} parts: the same model", done.returncode == 0 and
              one.read() == other.read(), short(said[-300:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=10000)
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--updates", type=int, default=20000)
    options = parser.parse_args()
    os.makedirs(HOME)
    chat_model.write_model(os.path.basename(HOME) + "/text.gguf", ends=0,
                           context=options.tokens + 64)
    chat_model.write_model(os.path.basename(HOME) + "/chat.gguf")
    for name, content in ("m.gguf", Gguf().build()), ("text.tok", torture.shard(torture.letters())):
        with open(place(name), "wb") as file:
            file.write(content)
    generate(options.tokens)
    chat(options.turns)
    train(options.updates)
    shutil.rmtree(HOME, ignore_errors=True)
    end()


if __name__ == "__main__":
    main()
