"""sandbox_driver.py: what the tests of the sandbox share: build/sandbox, which runs one job or task
a line, as root and as an ordinary user."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

from check import ROOT, TOOL, end, skip

PROGRAM = os.path.join(ROOT, "build", TOOL, "sandbox")
NAMESPACES = 15  # the bits of the protections that --without takes away
SECRET = "secret-of-the-parent"
NOBODY = 65534


def start(program, options, user, stdin=b"", timeout=60):
    who = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    return subprocess.run([program, *options], input=stdin, capture_output=True, timeout=timeout,
                          cwd="/", env={**os.environ, "SECRET": SECRET}, **who)


def run_lines(program, lines, options=(), user=None, timeout=120):
    """Gives the lines to the driver; what it prints first, and its results."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done = start(program, ("-j", "4", *options), user, text.encode(), timeout)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or len(found) != len(lines) + 1:
        print(done.stderr.decode(errors="replace"), file=sys.stderr)
        raise SystemExit(f"{PROGRAM}: exit code {done.returncode}, {len(found)} lines")
    return found[0], found[1:]


def for_each_user(run):
    """run(label, program, user) as root and as a user, or as who we are, with a copy of the driver
    where any user may start it."""
    directory = tempfile.mkdtemp(prefix="sandbox-test-")
    os.chmod(directory, 0o755)
    program = shutil.copy(PROGRAM, directory)
    try:
        done = start(program, (), None)
        if b"expected seccomp" in done.stderr:
            skip("sandbox", done.stderr.decode().strip())
        elif os.geteuid() == 0:
            run("root", program, None)
            run("a user", program, NOBODY)
        else:
            skip("root", "not run as root")
            run("a user", program, None)
    finally:
        shutil.rmtree(directory)
    end()
