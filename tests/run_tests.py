#!/usr/bin/env python3
"""run_tests.py [options] NAME...: runs tests, two at a time, and adds up what they print.

A test NAME is the script tests/NAME.py or else the C program NAME in $OC_TESTS (build/tests). It
prints `ok NAME`, `FAIL NAME: why` or `skip NAME: why` for every check it makes. A crash, a
timeout, a sanitizer report or a test that checks nothing is a failure too. The last line is

    N passed, N failed

and the exit code is 0 only if something passed and nothing failed. Python's library is enough."""

import argparse
import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# A sanitizer's words, but not where a failed check repeats those of a program it started.
REPORT = re.compile(r"^(?!FAIL ).*(ERROR: \w+Sanitizer|runtime error:).*$", re.MULTILINE)
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "OMP_WAIT_POLICY": "passive",  # more threads than cores are no reason to spin
    "PYTHONDONTWRITEBYTECODE": "1",
    "LC_ALL": "C.UTF-8",
}


def command_of(name):
    script = os.path.join(ROOT, "tests", name + ".py")
    if os.path.exists(script):
        return [sys.executable, script]
    return [os.path.join(ROOT, os.environ.get("OC_TESTS", "build/tests"), name)]


def outcome(name, timeout):
    """Returns (stdout, stderr, what went wrong or None)."""
    try:
        # A session of its own, so that a timeout also ends what the test has started.
        child = subprocess.Popen(command_of(name), cwd=ROOT, env={**os.environ, **ENVIRONMENT},
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True, errors="replace",
                                 start_new_session=True)
    except OSError as error:
        return "", "", f"cannot start: {error.strerror}"
    try:
        out, err = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
        return out, err, f"still running after {timeout} s"
    report = REPORT.search(out) or REPORT.search(err)
    if report:
        return out, err, report.group(0).strip()
    if child.returncode < 0:
        return out, err, f"ended by {signal.Signals(-child.returncode).name}"
    failures = re.search(r"^FAIL ", out, re.MULTILINE)
    if child.returncode and not failures:
        return out, err, f"exit code {child.returncode} without a failed check"
    if failures and not child.returncode:
        return out, err, "exit code 0 in spite of a failed check"
    if not re.search(r"^(ok|skip) ", out, re.MULTILINE) and not failures:
        return out, err, "no check was made"
    return out, err, None


def run(name, timeout, verbose):
    """Runs one test; returns how many checks passed and failed, and what to print about it."""
    begun = time.monotonic()
    out, err, wrong = outcome(name, timeout)
    lines = out.splitlines()
    good = sum(line.startswith("ok ") for line in lines)
    bad = [line for line in lines if line.startswith("FAIL ")]
    if wrong:
        bad.append(f"FAIL {name}: {wrong}")
    shown = [line for line in lines
             if line.startswith("skip ") or (verbose and line.startswith("ok "))] + bad
    if bad and err.strip():
        shown += ["stderr:", *err.strip().splitlines()[-30:]]
    report = "".join(f"  {line}\n" for line in shown)
    seconds = time.monotonic() - begun
    return good, len(bad), f"{report}{name:20} {good:6} ok {len(bad):4} failed {seconds:7.1f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for each test")
    parser.add_argument("-v", action="store_true", help="print every check")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & has it ignored
    passed = failed = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        for good, bad, report in pool.map(
                lambda name: run(name, options.timeout, options.v), options.names):
            print(report, flush=True)
            passed += good
            failed += bad
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
