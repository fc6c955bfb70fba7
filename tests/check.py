"""check.py: test.h for the tests written in Python. Every check prints one line and counts."""

import os
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.path.join(ROOT, os.environ.get("OC_BIN", "."))  # where run, tokenizer and convert are
TESTS = os.path.join(ROOT, os.environ.get("OC_TESTS", "build/tests"))  # where the C tests are
SCRATCH = os.path.join(ROOT, "build", "scratch")  # what a test writes goes here

# C tests that go through every level of the CPU; OC_SMALL makes them small, for emulators.
LEVEL_TESTS = ["test_format", "test_int8", "test_gemm", "test_attention"]
SIMDE = "/usr/include/simde/x86/avx512.h"  # of libsimde-dev


def tool_of(directory):
    """What watches the programs in a directory: asan, tsan, msan or nothing."""
    name = os.path.basename(os.path.normpath(directory))
    return name if name in ("asan", "tsan", "msan") else ""


TOOL = tool_of(BIN)
failed = 0
BEGUN = time.monotonic()
MINUTES = float(os.environ.get("OC_MINUTES", "inf"))  # that a long test may take, all in all


class Watch:
    """How far a long part of a test is, on stderr every 10 seconds, and whether its time is up:
    what is left of $OC_MINUTES is shared by the parts that are still to come, this one too."""

    def __init__(self, name, total, parts=1):
        self.name, self.total, self.done = name, total, 0
        self.begun = self.said = time.monotonic()
        self.end = self.begun + (BEGUN + 60 * MINUTES - self.begun) / parts
        self.lock = threading.Lock()

    def step(self):
        """One more of the total is done."""
        with self.lock:
            self.done += 1
            now = time.monotonic()
            if now - self.said < 10:
                return
            self.said = now
            left = min((now - self.begun) * (self.total / self.done - 1), self.end - now) / 60
        print(f"{self.name}: {self.done} of {self.total}, {max(left, 0):.1f} minutes left",
              file=sys.stderr, flush=True)

    def over(self):
        return time.monotonic() > self.end

    def __str__(self):
        return f"{self.done} of {self.total}" + " in the time there was" * (self.done < self.total)


def cpu_flags():
    """What /proc/cpuinfo says that this CPU has: {"avx2", "amx_int8", ...}."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("flags")]
    except OSError:
        lines = []
    return set(lines[0].split()) if lines else set()


def check(name, ok, why="is false"):
    """One result; `why` says what was found and what was expected."""
    global failed
    failed += not ok
    print(f"ok {name}" if ok else f"FAIL {name}: {why}", flush=True)
    return ok


def check_equal(name, got, want):
    return check(name, got == want, f"got {short(got)}, expected {short(want)}")


def short(value):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:120]} ... {text[-60:]}"


def skip(name, why):
    print(f"skip {name}: {why}", flush=True)


def write_file(path, content):
    """A file of text or bytes, and the directories on the way to it; returns its path."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return path


def relay(name, done):
    """Counts the checks of a C test that was started, under the name of what it was started on."""
    global failed
    lines = done.stdout.decode(errors="replace").splitlines()
    bad = sum(line.startswith("FAIL ") for line in lines)
    for line in lines:
        word, _, rest = line.partition(" ")
        if word in ("ok", "FAIL", "skip"):
            print(f"{word} {name}: {rest}", flush=True)
    failed += bad
    if bool(done.returncode) != bool(bad):
        check(f"{name}: ends well", False,
              f"exit code {done.returncode}: {done.stderr.decode(errors='replace').strip()}")


def program(name):
    return os.path.join(BIN, name)


def start(*command, stdin=b"", timeout=120, env=None):
    """Runs a command from the root of the repository; bytes in, bytes out."""
    return subprocess.run([str(word) for word in command], cwd=ROOT, input=stdin, timeout=timeout,
                          capture_output=True, env={**os.environ, **(env or {})})


def end():
    sys.exit(1 if failed else 0)
