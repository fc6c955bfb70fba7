#!/usr/bin/env python3
"""test_fuzz.py: every fuzz target on its seeds, on what was once found (tests/fuzz/regressions),
and on simple damage to the seeds: each cut short, and with bytes changed. The programs are those of
build/replay, which any compiler makes; those with libFuzzer (make fuzz-build) run too, if there."""

import glob
import os
import random
import shutil

from check import ROOT, SCRATCH, check, end, skip, start, write_file

FUZZ = os.path.join(ROOT, "tests", "fuzz")
PLACE = os.path.join(SCRATCH, "fuzz")
ASAN = "detect_leaks=1:detect_stack_use_after_return=0:allocator_may_return_null=1"
DAMAGED = 24  # for each seed


def targets():
    names = (os.path.basename(path)[:-2] for path in glob.glob(os.path.join(FUZZ, "*.c")))
    return sorted(name for name in names if name not in ("fuzz", "replay"))


def inputs(target, kind):
    return sorted(glob.glob(os.path.join(FUZZ, kind, target, "*")))


def damage(target):
    """A directory of copies of the seeds, cut or with up to four bytes changed, the same ones each
    time."""
    place = os.path.join(PLACE, target)
    for path in inputs(target, "seeds"):
        with open(path, "rb") as file:
            content = file.read()
        chance = random.Random(os.path.basename(path) + target)
        for i in range(DAMAGED):
            if i % 4 == 0:
                changed = content[:chance.randrange(len(content))]
            else:
                changed = bytearray(content)
                for _ in range(i % 4):
                    changed[chance.randrange(len(changed))] = chance.choice(
                        [0, 1, 127, 128, 255, chance.randrange(256)])
            write_file(os.path.join(place, f"{os.path.basename(path)}-{i}"), bytes(changed))
    return place


def replay(name, program, *places):
    done = start(program, *places, timeout=60, env={"ASAN_OPTIONS": ASAN, "OMP_NUM_THREADS": "1"})
    words = done.stderr.decode(errors="replace").splitlines()
    return check(name, done.returncode == 0, " | ".join(words[-6:])[:900])


def main():
    shutil.rmtree(PLACE, ignore_errors=True)
    for target in targets():
        program = os.path.join(ROOT, "build", "replay", target)
        seeds = inputs(target, "seeds")
        check(f"{target} has seeds", seeds, "none in tests/fuzz/seeds; run make_seeds.py")
        if not os.access(program, os.X_OK):
            skip(target, "build/replay is not built")
            continue
        known = [os.path.join(FUZZ, kind, target) for kind in ("seeds", "regressions")]
        known = [place for place in known if os.path.isdir(place)]
        replay(f"{target}: seeds and regressions", program, *known)
        replay(f"{target}: damaged seeds", program, damage(target))
        fuzzer = os.path.join(ROOT, "build", "fuzz", target)
        if os.access(fuzzer, os.X_OK):
            files = [path for place in known for path in glob.glob(os.path.join(place, "*"))]
            replay(f"{target}: seeds and regressions, with libFuzzer", fuzzer, *files)
    if not shutil.which("clang"):
        skip("libFuzzer", "no clang here, the targets were only replayed")
    shutil.rmtree(PLACE, ignore_errors=True)
    end()


if __name__ == "__main__":
    main()
