#!/usr/bin/env python3
"""soak.py [options]: `make soak`: long runs, watched from outside.

    text    one process writes N tokens; each prompt is continued until the context is full, and
            the next one begins in the same cache: --prompts
    chat    one process answers N messages; /reset empties the context when a message no longer
            fits, which ./run then says on stderr, and writes nothing to stdout
    train   N updates in one go, and the same N with kill -9 again and again and --resume: the
            same bytes of model, record and checkpoints. The runs write to one name in two
            directories, because a model has its name in it (general.name)

Of each: resident memory at 10 %, 50 % and 100 % of the work, the speed of the first tenth and of
the last. It fails when memory grows after 10 % by more than 1 % and 4 MB, when open files become
more, when the last tenth takes more than --slower times the first one's processor time (other work
on the machine changes it less than the time of the clock, and does change it), or when the same
again gives other bytes. The model is `./convert --random tiny`: the text is noise."""

import argparse
import hashlib
import json
import os
import random
import select
import shutil
import subprocess
import time

import torture
from check import ROOT, SCRATCH, check, check_equal, end, program, short, start

HOME = os.path.join(SCRATCH, f"soak-{os.getpid()}")
CONTEXT = 256
SECONDS = 300  # for one answer or line; whoever needs longer hangs
TICK = os.sysconf("SC_CLK_TCK")
PIPES = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
SILENT = dict.fromkeys(PIPES, subprocess.DEVNULL)
COUNTED = {"tokens": "tok/s", "turns": "turns/s", "updates": "updates/s"}


def place(name):
    return os.path.join(HOME, name)


class Watched:
    """A program under observation. seen: (work done, KB, open files, processor time, clock)."""

    def __init__(self, *words, cwd=HOME, **more):
        self.child = subprocess.Popen(
            [os.path.join(ROOT, program(words[0])), *map(str, words[1:])], cwd=cwd, bufsize=0,
            env={**os.environ, "OMP_WAIT_POLICY": "passive"}, **{**PIPES, **more})
        self.seen = []
        self.out = self.err = b""

    def look(self, done):
        """Of a child that has ended there is nothing to be seen."""
        try:
            with open(f"/proc/{self.child.pid}/status", encoding="utf-8") as file:
                status = dict(line.split(":", 1) for line in file)
            with open(f"/proc/{self.child.pid}/stat", encoding="utf-8") as file:
                ticks = sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))
            files = len(os.listdir(f"/proc/{self.child.pid}/fd"))
            self.seen.append((done, int(status["VmRSS"].split()[0]), files, ticks / TICK,
                              time.monotonic()))
        except (OSError, KeyError):
            pass

    def read(self, ready):
        """Reads stdout and stderr until ready(); False at the end of both or after SECONDS."""
        limit = time.monotonic() + SECONDS
        pipes = [self.child.stdout, self.child.stderr]
        while not ready() and pipes and time.monotonic() < limit:
            for pipe in select.select(pipes, [], [], 1)[0]:
                more = os.read(pipe.fileno(), 65536)
                if not more:
                    pipes.remove(pipe)
                elif pipe is self.child.stdout:
                    self.out += more
                else:
                    self.err += more
        return ready()

    def stop(self):
        self.child.kill()
        self.child.communicate()

    def at(self, share):
        """What was seen first at that share of the work, or last of all."""
        total = self.seen[-1][0]
        return next(s for s in self.seen if s[0] >= share * total)

    def judge(self, name, unit, slower):
        open_files = [[s[2] for s in self.seen if a <= s[0] / max(self.seen[-1][0], 1) <= b]
                      for a, b in ((0, 0.1), (0.9, 1))]
        if not check(f"{name}: is watched", len(self.seen) > 1 and all(open_files),
                     f"{len(self.seen)} times, not in the first and the last tenth"):
            return
        begun, early, half, late, last = self.seen[0], *map(self.at, (0.1, 0.5, 0.9, 1))
        grown = max(s[1] for s in self.seen if s[0] >= early[0]) - early[1]
        check(f"{name}: resident {early[1]} KB at 10 %, {half[1]} at 50 %, {last[1]} at 100 %",
              grown <= max(early[1] // 100, 4096), f"grows by {grown} KB")
        files = [min(part) for part in open_files]  # one that is being saved is open for a while
        check(f"{name}: {files[0]} files open", files[1] <= files[0], f"{files[1]} at the end")
        first, final = ([b - a for a, b in zip(*pair)] for pair in ((begun, early), (late, last)))
        rates = [part[0] / max(part[4], 1e-9) for part in (first, final)]
        share = (final[3] / max(final[0], 1)) / max(first[3] / max(first[0], 1), 1e-9)
        known = min(first[3], final[3]) >= 0.3  # the clock of /proc has steps of 0.01 s
        check(f"{name}: {rates[0]:.1f} {COUNTED[unit]} in the first tenth, {rates[1]:.1f} in the "
              f"last, " + (f"{share:.2f} times its processor time" if known else
                           "too short to be compared"), not known or share <= slower,
              f"more than {slower} times")


def text(tokens, slower):
    """There are more prompts than are needed: the last look is at a program that is still busy."""
    name, sums = f"{tokens} tokens", []
    prompts = "".join(json.dumps({"prompt": f"def f{i}(x):"}) + "\n" for i in range(tokens))
    with open(place("prompts.jsonl"), "w", encoding="utf-8") as file:
        file.write(prompts)
    for _ in range(2):
        w = Watched("run", "m.gguf", "-q", "--prompts", "prompts.jsonl", "--batch", 2, "-n", 0,
                    "-c", CONTEXT, "-t", 1, "-s", 5, "-j", 1)
        done, full, lines = 0, 0, hashlib.sha256()
        while done < tokens and w.read(lambda: b"\n" in w.out):
            line, w.out = w.out.split(b"\n", 1)
            lines.update(line)
            fields = json.loads(line)
            done += fields["tokens"]
            full += fields["end"] == "context"
            w.look(done)
        w.stop()
        if not check(f"{name}: written", done >= tokens, f"{done}, {short(w.err)}"):
            return
        sums.append((done, lines.hexdigest()))
        w.judge(name, "tokens", slower)
    check_equal(f"{name}, the context full {full} times: the same again", *sums)


def chat(turns, slower):
    """An answer ends before its first line feed (--stop), so a turn is one line on stdout; a
    message that has no room is one on stderr."""
    name, sums = f"{turns} turns", []
    for _ in range(2):
        noise, resets = random.Random(8), 0
        w = Watched("run", "m.gguf", "-q", "-m", "chat", "-y", "", "-n", 20, "-c", CONTEXT, "-j", 1,
                    "--stop", "\n", "-t", 1, "-s", 5, stdin=subprocess.PIPE)
        answers, done = hashlib.sha256(), 0
        while done < turns:
            message = "".join(noise.choice("abcdefgh (),") for _ in range(12)) + ".\n"
            w.child.stdin.write(message.encode())
            if not w.read(lambda: b"\n" in w.out or b"\n" in w.err):
                break
            if w.err:
                if not w.err.startswith(b"this message needs "):
                    break
                w.err = b""
                w.child.stdin.write(b"/reset\n")
                resets += 1
                continue
            answers.update(w.out)
            w.out, done = b"", done + 1
            w.look(done)
        if done == turns:
            w.child.stdin.close()
            w.read(lambda: False)
            w.child.wait(SECONDS)
        else:
            w.stop()
        if not check(f"{name}: answered, and it ends well", done == turns and
                     (w.child.returncode, w.out, w.err) == (0, b"", b""),
                     f"{done} turns, {w.child.returncode}, {short(w.out)}, {short(w.err)}"):
            return
        sums.append((resets, answers.hexdigest()))
        w.judge(name, "turns", slower)
    check_equal(f"{name}, {resets} times a new context: the same again", *sums)


def updates_of(path):
    """The last whole line of a record; 0 where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(os.path.getsize(path) - 1000, 0))
            lines = file.read().split(b"\n")[:-1]
        return int(lines[-1].split(b",")[0])
    except (OSError, IndexError, ValueError):
        return 0


def train(updates, kills, slower):
    name, noise = f"{updates} updates", random.Random(4)
    save = max(updates // (4 * kills + 1), 1)
    words = ["train", "pretrain", "../text.tok", "--tokenizer", "../m.gguf", "-o", "out", "--dim",
             64, "--layers", 2, "--heads", 2, "--ctx", 64, "--steps", updates, "--seq-len", 32,
             "--batch", 4, "--save-every", save, "--val-rows", 8, "-j", 1]
    for directory in "whole", "parts":
        os.mkdir(place(directory))
    w = Watched(*words, cwd=place("whole"), **SILENT)
    while w.child.poll() is None:
        w.look(updates_of(place("whole/out.csv")))
        time.sleep(0.02)
    w.seen = [s for s in w.seen if s[0]]
    if not check(f"{name}: done", w.child.returncode == 0, w.child.returncode):
        return
    w.judge(name, "updates", slower)
    killed, code, record = 0, None, place("parts/out.csv")
    while code is None:
        goal = updates_of(record) + noise.randrange(1, max(2 * updates // kills, 2))
        child = subprocess.Popen([os.path.join(ROOT, program("train")), *map(str, words[1:]),
                                  "--resume"], cwd=place("parts"), **SILENT)
        while (code := child.poll()) is None and (killed == kills or updates_of(record) < goal):
            time.sleep(0.002)
        if code is None:
            child.kill()
            child.wait()
            killed += 1
    check(f"{name}: killed {killed} times", code == 0 and killed > kills // 3, f"exit code {code}")
    one, other = torture.tree(place("whole")), torture.tree(place("parts"))
    check(f"{name}, killed {killed} times: the same {len(one)} files as in one go", one == other,
          sorted(n for n in {*one, *other} if one.get(n) != other.get(n)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=10000, help="0: no text [10000]")
    parser.add_argument("--turns", type=int, default=1000, help="0: no chat [1000]")
    parser.add_argument("--updates", type=int, default=20000, help="0: no training [20000]")
    parser.add_argument("--kills", type=int, default=50, help="of the training [50]")
    parser.add_argument("--slower", type=float, default=1.5, help="that a tenth may be [1.5]")
    options = parser.parse_args()
    os.makedirs(HOME)
    start(program("convert"), "--random", "tiny", place("m.gguf"), "-q", "q8_0")
    start(program("tokenizer"), "pack", os.path.join(ROOT, "run.c"), os.path.join(ROOT, "train.c"),
          "-o", place("text.tok"), "--tokenizer", place("m.gguf"))
    if options.tokens:
        text(options.tokens, options.slower)
    if options.turns:
        chat(options.turns, options.slower)
    if options.updates:
        train(options.updates, max(options.kills, 1), options.slower)
    shutil.rmtree(HOME, ignore_errors=True)
    end()


if __name__ == "__main__":
    main()
