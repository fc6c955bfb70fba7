#!/usr/bin/env python3
"""lint.py: `make check`. The rules of the house that a machine can check:

lines per file, 100 columns, 60 lines per function, no tabs, no notes about unfinished work, scripts
that can be started, and, where the programs are installed, clang-format and cppcheck. Prints what
breaks a rule; the exit code is 1 if anything does."""

import glob
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CEILING = {
    "files.h": 700, "gguf.h": 700, "opencoder.h": 700, "json.h": 300, "tokenizer.c": 700,
    "lora.h": 150, "speculate.h": 250, "draft.h": 150, "matmul.c": 600, "quants.c": 400,
    "gemm.c": 400, "attention.c": 500, "cpu/": 500, "run.c": 1200, "train.c": 1500, "loader.h": 400,
    "svg.h": 160, "shards.h": 250, "batch.h": 100, "checkpoint.h": 250, "progress.h": 250,
    "train_options.h": 300, "ranks.h": 200, "perplexity.h": 250, "engine.h": 120, "prompts.h": 250,
    "runcuda.cu": 1400, "traincuda.cu": 2000, "cuda/": 700, "cuda/emu.h": 750,
    "Makefile": 200, "cuda.mk": 140, "eval.mk": 100, "refine.mk": 60, "export/": 500, "data/": 500,
    "eval/": 500, "cookbook.mk": 40, "cookbook/": 500, "fuzz.mk": 100,
}
LONG_FUNCTIONS = {"forward": 130, "backward": 130, "main": 130}
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
GENERATED = {"unicode.h", "unitables.h", "languages.h"}


def tracked(*patterns):
    found = [name for pattern in patterns for name in glob.glob(pattern, root_dir=ROOT)]
    return sorted(found)


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return file.read().splitlines()


def functions(lines):
    """Yields (name, first line, length) of the functions of a C file: what begins in the first
    column with a name and parameters and goes on to a closing brace in the first column."""
    text = "\n".join(lines)
    for found in re.finditer(r"^[A-Za-z_][^;{}#=]*?(\w+)\([^;{}]*\)[^;{}]*\{\n.*?^\}$", text,
                             re.MULTILINE | re.DOTALL):
        yield found.group(1), text.count("\n", 0, found.start()) + 1, found.group().count("\n") + 1


def check_file(name):
    lines = read(name)
    ceiling = CEILING.get(name) or CEILING.get(os.path.dirname(name) + "/")
    if ceiling and len(lines) > ceiling:
        yield f"{name}: {len(lines)} lines, at most {ceiling} were agreed"
    if lines and lines[0].startswith("#!") and not os.access(os.path.join(ROOT, name), os.X_OK):
        yield f"{name}: begins with #! and is not executable"
    for number, line in enumerate(lines, 1):
        if len(line) > 100:
            yield f"{name}:{number}: {len(line)} columns, at most 100"
        if line != line.rstrip():
            yield f"{name}:{number}: space at the end of the line"
        if "\t" in line and name != "Makefile" and not name.endswith(".mk"):
            yield f"{name}:{number}: a tab"
        if UNFINISHED.search(line):
            yield f"{name}:{number}: {UNFINISHED.search(line).group(1)}"
    if name.endswith((".c", ".h", ".cu")):
        for function, first, length in functions(lines):
            if length > LONG_FUNCTIONS.get(function, 60):
                yield f"{name}:{first}: {function} has {length} lines, at most " \
                      f"{LONG_FUNCTIONS.get(function, 60)}"


def run_tool(program, *arguments):
    if not shutil.which(program):
        print(f"{program}: not installed, skipped")
        return []
    done = subprocess.run([program, *arguments], cwd=ROOT, text=True, capture_output=True)
    return (done.stdout + done.stderr).splitlines() if done.returncode else []


def main():
    sources = tracked("*.c", "cpu/*.c", "export/*.c", "data/*.c", "eval/*.c",
                      "cookbook/*.c", "tests/*.c", "tests/fuzz/*.c", "bench/*.c")
    headers = tracked("*.h", "*.cu", "cuda/*.h", "cpu/*.h", "export/*.h", "data/*.h",
                      "eval/*.h", "tests/*.h", "tests/fuzz/*.h")
    scripts = tracked("Makefile", "*.mk", "tests/*.mk", "bench/*.sh", "data/*.py", "eval/*.py",
                      "tests/*.py", "tests/fuzz/*.py", "bench/*.py", "cookbook/*.py",
                      "tests/portability.sh", ".ci/*")
    written = [name for name in sources + headers if os.path.basename(name) not in GENERATED]
    wrong = [line for name in written + scripts for line in check_file(name)]
    wrong += run_tool("clang-format", "--dry-run", "-Werror", *written)
    if sources:
        wrong += run_tool("cppcheck", "--std=c11", "--enable=warning,portability", "--quiet",
                          "--inline-suppr", "--error-exitcode=1",
                          "--suppress=missingIncludeSystem", *sources)
    for line in wrong:
        print(line)
    print(f"{len(written + scripts)} files checked, {len(wrong)} lines of complaint")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
