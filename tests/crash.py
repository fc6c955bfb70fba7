#!/usr/bin/env python3
"""crash.py: kill -9 and full disks, at every kind of file that is written.

A writer is killed after a random time, again and again. After each kill the file has its old bytes
or all of its new ones; the next run ends as if nothing had been, and of temporary files none stays.
Training goes on from its newest checkpoint, and evaluation from its journal. On a disk that is too
small, a writer says so with exit code 1, and what was there before is there afterwards.
OC_KILLS says how often each is killed (3; make kills: 100), OC_SEED when, and OC_MINUTES how long
all of it may take."""

import os
import random
import shutil
import subprocess
import time

import torture
from badinput_files import Gguf
from check import SCRATCH, Watch, check, end, program, short, skip
from torture import Scenario, prepare, start, tree

HOME = os.path.join(SCRATCH, f"crash-{os.getpid()}")
KILLS = int(os.environ.get("OC_KILLS", 3))


def writers():
    """Those of torture.py, with more to write."""
    known = {s.name: s for s in torture.scenarios()}
    train = known["train"]
    steps = train.command.index("--steps") + 1
    train.command[steps] = "60"
    train.again = (*train.command, "--resume")
    mixture = known["mixture"]
    mixture.command[mixture.command.index("--total") + 1] = "12k"
    yield "a checkpoint", train
    yield "a model", known["quantize"]
    yield "a model of Hugging Face", known["from hf"]
    yield "a shard", known["pack"]
    yield "a vocabulary", known["vocabulary"]
    yield "clean text", known["clean"]
    yield "outcomes", known["evaluate"]
    yield "answers", known["answers"]
    yield "a directory for transformers", known["to hf"]
    yield "a mixture and its statistics", mixture
    if "recall" in known:
        yield "pages that recall finds", known["recall"]


def killed(command, directory, seconds):
    """Starts the command and kills it after that time; was it still running?"""
    child = subprocess.Popen([os.path.abspath(program(command[0])), *command[1:]], cwd=directory,
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL,
                             env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    try:
        child.wait(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return True


def torn(before, after, right):
    """The files that are neither what they were nor what they are to be. Journals may end early,
    and of checkpoints there is one for each of many updates: the next run judges those."""
    return [name for name, content in after.items()
            if content not in (before.get(name), right.get(name)) and ".tmp-" not in name
            and not name.endswith(torture.GROWING) and ".ckpt-" not in name]


def test_kills(title, scenario, directory, noise, parts):
    prepare(scenario, directory)
    before, begun = tree(directory), time.monotonic()
    done = start(scenario.command, directory)
    seconds, right = time.monotonic() - begun, tree(directory)
    if not check(f"{title}: is written", done.returncode == 0, short(done.stderr)):
        return
    again, wrong = scenario.again or scenario.command, []
    watch = Watch(f"{title}, kills", KILLS, parts)
    prepare(scenario, directory)
    for _ in range(KILLS * 20):
        if watch.done == KILLS or watch.over():
            break
        if not killed(again, directory, noise.uniform(0, seconds)):
            prepare(scenario, directory)  # it was faster: once more, from the start
            continue
        watch.step()
        wrong += torn(before, tree(directory), right)
    if not watch.done and watch.over():
        skip(f"{title}: {KILLS} kills", "no time is left for them")
        return
    done = start(again, directory)
    after = tree(directory)
    wrong += [f"at the end {name}" for name in {*after, *right}
              if after.get(name) != right.get(name)]
    check(f"{title}: killed {watch} times, the next run is right", not wrong and watch.done and
          done.returncode == 0, f"{wrong}, {short(done.stderr)}")


def test_full_disk(title, scenario, directory):
    """A file system on which all that is read fits, and what is written does not."""
    os.makedirs(directory, exist_ok=True)
    inputs = sum(-(-len(content) // 4096) + 1 for content in scenario.files.values())
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={4 * inputs + 12}k", "none",
                              directory], capture_output=True).returncode == 0
    if not mounted:
        skip(f"{title}: full disk", "no file system can be mounted here; it needs root")
        return
    try:
        for name, content in scenario.files.items():
            path = os.path.join(directory, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
        with open(os.path.join(directory, "filler"), "wb", buffering=0) as file:
            try:
                while file.write(b"\1" * 4096) == 4096:
                    pass
            except OSError:
                pass
        os.truncate(os.path.join(directory, "filler"),
                    os.path.getsize(os.path.join(directory, "filler")) - 4096)
        before = tree(directory)
        done = start(scenario.command, directory)
        after = tree(directory)
        wrong = [name for name in {*before, *after} if after.get(name) != before.get(name)
                 and not name.endswith(torture.GROWING)]
        check(f"{title}: full disk", done.returncode == 1 and torture.is_error(done.stderr) and
              b"No space left" in done.stderr and not wrong,
              f"exit code {done.returncode}, {short(done.stderr)}, changed {wrong}")
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def test_left():
    """What a killed process has left goes with the next run: of numbers that no process has any
    more, and of its own, which in a container is always the same. What lives stays."""
    known = {s.name: s for s in torture.scenarios()}
    gone = subprocess.Popen(["true"])
    gone.wait()
    place = os.path.join(HOME, "left")
    for name in "quantize", "to hf":
        scenario = known[name]
        prepare(scenario, place)
        for number in (gone.pid, os.getpid()):
            os.makedirs(os.path.join(place, f"OUT.tmp-{number}"))
            with open(os.path.join(place, f"OUT.tmp-{number}", "config.json"), "wb") as file:
                file.write(b"half")
            with open(os.path.join(place, f"OUT.more.tmp-{number}"), "wb") as file:
                file.write(b"half")
        done = start(scenario.command, place)
        left = sorted(name for name in os.listdir(place) if ".tmp-" in name)
        check(f"{name}: what a killed process has left", done.returncode == 0 and left == [
            f"OUT.more.tmp-{os.getpid()}", f"OUT.tmp-{os.getpid()}"], f"{left}, {done.stderr}")
        own = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True)
        if own.returncode:
            skip(f"{name}: in a container", "no namespace of processes here; it needs root")
            continue
        prepare(scenario, place)
        half = os.path.join(place, "OUT.tmp-1")
        if name == "to hf":
            os.makedirs(half)
            half = os.path.join(half, "config.json")
        with open(half, "wb") as file:
            file.write(b"half")
        command = [os.path.abspath(program(scenario.command[0])), *scenario.command[1:]]
        done = subprocess.run(["unshare", "--pid", "--fork", *command], cwd=place,
                              capture_output=True)
        check(f"{name}: in a container, where each process has the number 1", done.returncode == 0
              and not [name for name in os.listdir(place) if ".tmp-" in name], done.stderr)


def test_broken_off():
    """A run that ends behind its last checkpoint, before the oldest is removed, or before the first
    checkpoint."""
    scenario = {s.name: s for s in torture.scenarios()}["train"]
    place = os.path.join(HOME, "old")
    prepare(scenario, place)
    start(scenario.command, place)
    right = tree(place)
    shutil.copy(os.path.join(place, "out.ckpt-000002"), os.path.join(place, "out.ckpt-000001"))
    done = start(scenario.again, place)
    check("a checkpoint that was to be removed goes with the next run", done.returncode == 0 and
          tree(place) == right, f"{sorted(tree(place))}, {short(done.stderr)}")
    prepare(scenario, place)
    with open(os.path.join(place, "out.csv"), "wb") as file:
        file.write(bytes(500))
    done = start(scenario.again, place)
    check("a record of zeros, from a power failure before the first checkpoint, is begun anew",
          done.returncode == 0 and tree(place) == right, short(done.stderr))


def test_many_places():
    """N updates are k and then N - k, for 20 values of k."""
    n = 21
    files = {"m.gguf": Gguf().build(), "text.tok": torture.shard(torture.letters())}
    command = ["train", "pretrain", "text.tok", "--init", "m.gguf", "-o", "out", "--steps", str(n),
               "--seq-len", "16", "--batch", "2", "--keep", "1", "-j", "1", "--val-fraction", "0"]
    scenario = Scenario("resume", command, files)
    wrong, whole = [], os.path.join(HOME, "whole")
    prepare(scenario, whole)
    start(command, whole)
    right = tree(whole)
    for k in range(1, n):
        place = os.path.join(HOME, "part")
        prepare(scenario, place)
        start([*command, "--save-every", str(k), "--keep", "99"], place)
        for name in os.listdir(place):
            if name == "out" or name.startswith("out.ckpt-") and int(name[9:]) != k:
                os.remove(os.path.join(place, name))
        start([*command, "--save-every", str(k), "--keep", "99", "--resume"], place)
        after = tree(place)
        wrong += [f"{name}, k = {k}" for name in ("out", "out.csv", f"out.ckpt-{n:06}")
                  if after.get(name) != right.get(name)]
    check(f"{n} updates are k and {n} - k, k from 1 to {n - 1}: the same bytes", not wrong, wrong)


def main():
    noise = random.Random(os.environ.get("OC_SEED", "9"))
    known = list(writers())
    for number, (title, scenario) in enumerate(known):
        test_kills(title, scenario, os.path.join(HOME, f"k{number}"), noise, len(known) - number)
        test_full_disk(title, scenario, os.path.join(HOME, f"d{number}"))
    test_left()
    test_broken_off()
    test_many_places()
    shutil.rmtree(HOME, ignore_errors=True)
    end()


if __name__ == "__main__":
    main()
