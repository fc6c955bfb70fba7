#!/usr/bin/env python3
"""test_fuzz.py: every fuzz target on its seeds, on what was once found (tests/fuzz/regressions),
and on simple damage to the seeds: each cut short, and with bytes changed; and that a target which
breaks a promise is noticed (tests/fuzz/broken.c). The programs are those of build/replay (or of
$OC_REPLAY), which any compiler makes; those with libFuzzer (make fuzz-build) run too, if there."""

import glob
import os
import random
import shutil

from check import ROOT, SCRATCH, check, end, short, skip, start, write_file

FUZZ = os.path.join(ROOT, "tests", "fuzz")
PLACE = os.path.join(SCRATCH, "fuzz")
REPLAY = os.path.join(ROOT, os.environ.get("OC_REPLAY", "build/replay"))
ASAN = "detect_leaks=1:detect_stack_use_after_return=0:allocator_may_return_null=1"
DAMAGED = 24  # for each seed


def targets():
    names = (os.path.basename(path)[:-2] for path in glob.glob(os.path.join(FUZZ, "*.c")))
    return sorted(name for name in names if name not in ("fuzz", "replay", "broken"))


def inputs(target, kind):
    return sorted(glob.glob(os.path.join(FUZZ, kind, target, "*")))


def damage(target):
    """A directory of copies of the seeds, cut or with up to three bytes changed, the same ones each
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
    given = sum(len(files) for place in places for _, _, files in os.walk(place)) or len(places)
    all_of_them = b"%d inputs" % given in done.stdout or "libFuzzer" in name
    return check(name, done.returncode == 0 and all_of_them,
                 f"{short(done.stdout)} of {given} | " + " | ".join(words[-6:])[:900])


def test_promises():
    program = os.path.join(REPLAY, "broken")
    if not os.access(program, os.X_OK):
        skip("promises", f"{REPLAY} is not built")
        return
    with open(program, "rb") as file:
        sanitized = b"__asan_init" in file.read()
    too_far = [("o", "heap-buffer-overflow")] if sanitized else []
    for letter, words in (*too_far, ("l", "1 blocks of memory were not released"),
                          ("f", "a file was left open"), ("s", "ended with ''"),
                          ("z", "exit code 0, expected 1 or 2"), ("t", "ended with 'error: one"),
                          ("r", "refused without a reason"), ("d", None), ("x", None)):
        done = start(program, stdin=letter.encode(), env={"ASAN_OPTIONS": ASAN})
        said = done.stderr.decode(errors="replace")
        check(f"a broken promise: {words or 'none'}", (done.returncode != 0 and words in said) if
              words else (done.returncode == 0 and done.stdout == b"1 inputs\n"),
              f"exit code {done.returncode}, {short(said)}")


def main():
    shutil.rmtree(PLACE, ignore_errors=True)
    test_promises()
    for target in targets():
        program = os.path.join(REPLAY, target)
        seeds = inputs(target, "seeds")
        check(f"{target} has seeds", seeds, "none in tests/fuzz/seeds; run make_seeds.py")
        if not os.access(program, os.X_OK):
            skip(target, f"{REPLAY} is not built")
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
