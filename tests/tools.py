#!/usr/bin/env python3
"""tools.py tsan|msan|valgrind [WORD...]: `make tsan` and its like: the programs at work under a
tool that sees what a test cannot: threads without order, memory that nobody wrote, leaks.
tools.py tsan|msan --suite TEST...: `make suite-tsan` and its like: tests of `make test` with its
programs.

The work is that of torture.py, a scenario for each kind of file that is read or written, and the C
tests of the CPU's levels, of the loader and of shards, made small (OC_SMALL). WORDs choose some by
name. Each must end well, without a word from the tool. OC_SECONDS: how long one may take (600)."""

import concurrent.futures
import glob
import os
import re
import shutil
import subprocess
import sys

import torture
from check import ROOT, SCRATCH, check, end, short, skip

HOME = os.path.join(SCRATCH, f"tools-{os.getpid()}")
SECONDS = int(os.environ.get("OC_SECONDS", 600))
REPORT = re.compile(rb"(WARNING: \w+Sanitizer.*|ERROR: \w+Sanitizer.*|^==\d+== .*)", re.MULTILINE)
FOREIGN = "refine has no zstd, libarchive and libxml2 there, which are not built for it"
BOXED = "evaluate runs nothing without the sandbox's system calls, which valgrind does not know"
SKIP = {"msan": dict.fromkeys(("archive", "compressed lines", "recall WARC"), FOREIGN),
        "valgrind": dict.fromkeys(("evaluate", "evaluate C and shell", "answers"), BOXED)}


def archer():
    """The library that tells ThreadSanitizer what OpenMP does."""
    found = [*glob.glob("/usr/lib/llvm-*/lib/libarcher.so"), *glob.glob("/usr/lib*/libarcher.so")]
    return found[-1] if found else ""


TOOLS = {
    "tsan": ([], {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1:exitcode=66",
                  "OMP_TOOL_LIBRARIES": archer(), "OMP_NUM_THREADS": "4"}),
    "msan": ([], {"MSAN_OPTIONS": "exitcode=66"}),
    "valgrind": (["valgrind", "-q", "--leak-check=full", "--errors-for-leak-kinds=definite",
                  "--suppressions=" + os.path.join(ROOT, "tests", "valgrind.supp"),
                  "--error-exitcode=66"], {"OMP_NUM_THREADS": "2"}),
}


class Tool:
    def __init__(self, kind):
        self.kind = kind
        self.before, self.env = TOOLS[kind]

    def run(self, words, directory, stdin=b""):
        words = [os.path.join(ROOT, "build", self.kind, words[0]), *words[1:]]
        if self.kind == "tsan" and "-j" in words:
            words[words.index("-j") + 1] = "4"
        return subprocess.run([*self.before, *words], cwd=directory, input=stdin, timeout=SECONDS,
                              capture_output=True, env={**os.environ, **self.env, "OC_SMALL": "1",
                                                        "OMP_WAIT_POLICY": "passive"})

    def judge(self, name, words, directory, stdin=b""):
        """(name, is it well, what is wrong)"""
        try:
            done = self.run(words, directory, stdin)
        except subprocess.TimeoutExpired:
            return name, False, f"still running after {SECONDS} s"
        report = REPORT.search(done.stderr)
        if report:
            with open(os.path.join(SCRATCH, f"{self.kind}.report"), "ab") as file:
                file.write(b"### " + name.encode() + b"\n" + done.stderr)
        why = report.group(0) if report else done.stderr[-200:]
        return name, not report and done.returncode == 0, f"{done.returncode}, {short(why)}"

    def scenario(self, scenario):
        """Commands that come before (prepare) are done by the usual programs."""
        directory = os.path.join(HOME, scenario.name.replace(" ", "-"))
        torture.prepare(scenario, directory)
        return self.judge(scenario.name, scenario.command, directory, scenario.stdin)

    def test(self, path):
        name = os.path.basename(path)
        return self.judge(name, ["tests/" + name], ROOT)


def suite(kind, tests):
    """A test need not look at all that a program says, so reports go to files."""
    reports = os.path.join(ROOT, "build", kind, "reports")
    shutil.rmtree(reports, ignore_errors=True)
    os.makedirs(reports)
    env, options = dict(TOOLS[kind][1]), f"{kind.upper()}_OPTIONS"
    env[options] += f":log_path={reports}/of"
    env |= {"OC_BIN": f"build/{kind}", "OC_BAD_BIN": f"build/{kind}",
            "OC_TESTS": f"build/{kind}/tests"}
    done = subprocess.run([sys.executable, "tests/run_tests.py", "--timeout", "3600", *tests],
                          cwd=ROOT, env={**os.environ, **env}, check=False)
    check(f"{kind}: every test", done.returncode == 0, "see above")
    found = []  # but for "Sanitizer failed to allocate", where a test asks for too much
    for name in sorted(os.listdir(reports)):
        with open(os.path.join(reports, name), "rb") as file:
            found += [name] * (b"Sanitizer: " in file.read())
    check(f"{kind}: no report", not found, f"{len(found)} in {reports}: {short(found)}")
    end()


def lacks(kind):
    """Why nothing can be run under a tool here, or None."""
    before, _ = TOOLS[kind]
    if before and not shutil.which(before[0]):
        return f"{before[0]} is not installed"
    if not os.path.exists(os.path.join(ROOT, "build", kind, "run")):
        return f"build/{kind} is not built, which takes clang"
    if kind == "tsan" and not archer():
        return "libarcher is not installed (libomp-dev): what OpenMP does would be reported"
    return None


def main():
    kind, words = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if kind not in TOOLS:
        sys.exit(__doc__)
    if lacks(kind):
        skip(kind, lacks(kind))
        end()
    if words[:1] == ["--suite"]:
        suite(kind, words[1:])
    tool, jobs = Tool(kind), []
    for s in torture.scenarios():
        if s.name in SKIP.get(kind, {}):
            skip(s.name, SKIP[kind][s.name])
        elif not words or any(word in s.name for word in words):
            jobs.append((tool.scenario, s))
    for path in sorted(glob.glob(os.path.join(ROOT, "build", kind, "tests", "test_*"))):
        name = os.path.basename(path)
        by_script = os.path.exists(f"{ROOT}/tests/{name}.py")  # which gives it arguments
        if "." not in name and not by_script and (not words or any(w in path for w in words)):
            jobs.append((tool.test, path))
    os.makedirs(HOME)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, good, why in pool.map(lambda job: job[0](job[1]), jobs):
            check(f"{kind}: {name}", good, why)
    shutil.rmtree(HOME, ignore_errors=True)
    end()


if __name__ == "__main__":
    main()
