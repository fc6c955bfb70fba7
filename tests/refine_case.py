"""refine_case.py: what the tests of ./refine share."""

import json
import os
import shutil

import check

PLACE = os.path.join(check.SCRATCH, "refine")
ASAN = os.path.join(check.ROOT, "build", "asan", "refine")
REFINE = check.program("refine")
# Bad input goes to the program with the sanitizers, where it could be built.
STRICT = ASAN if os.path.exists(ASAN) else REFINE


def fresh(name):
    """An empty directory for a test."""
    path = os.path.join(PLACE, name)
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path


def lines(path, *records):
    """A file of JSON Lines; strings stand for themselves."""
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)
    return check.write_file(path, text)


def refine(*words, stdin=b"", program=None, env=None):
    done = check.start(program or REFINE, *words, stdin=stdin, env=env)
    return done.returncode, done.stdout, done.stderr.decode(errors="replace")


def documents(*words, stdin=b"", program=None):
    """The documents that a command lets pass, or its failure."""
    code, out, err = refine(*words, "-q", stdin=stdin, program=program)
    if code:
        check.check(f"refine {words[0]} ends well", False, f"exit code {code}: {err.strip()}")
        return []
    return [json.loads(line) for line in out.decode().splitlines()]


def refused(name, code, wanted, *words, stdin=b""):
    """One line of error with these words in it, that exit code, and nothing on stdout."""
    got, out, err = refine(*words, "-q", stdin=stdin, program=STRICT)
    line = err.strip()
    ok = got == code and line.startswith("error: ") and "\n" not in line and not out
    check.check(name, ok and all(word in line for word in wanted),
                f"exit code {got}, {check.short(line)}, expected {code} and {wanted}")


def stats_of(*words, stdin=b"", program=None):
    """The statistics of a run as one object for each stage, by name, and all of it."""
    path = os.path.join(PLACE, f"stats-{os.getpid()}.json")
    code, _, err = refine(*words, "--stats", path, "-q", stdin=stdin, program=program)
    check.check_equal(f"refine {words[0]} --stats", (code, err), (0, ""))
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    return {stage["stage"]: stage for stage in found["stages"]}, found
