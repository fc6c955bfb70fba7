#!/usr/bin/env python3
"""test_docs.py: what README.md and WALKTHROUGH.md say is so.

    tests/test_docs.py          checks, like every test
    tests/test_docs.py --fix    writes the right line numbers into the links, and checks

A link [`name`](file#L12) points to the line that defines `name`: function, macro, type, table. The
target of every other relative link exists. Of the fenced blocks,

    ```sh        is run by bash, all of a document in one session, in a directory of its own where
                 the programs, tests/ and the sources are, and must end with exit code 0;
    ```text      as the next fence holds what it prints to stdout, to the letter but for speeds,
                 the level of matmul.c and the number of threads; without one it prints nothing;
    ```console   and all other fences are only shown: they need what a clone does not have."""

import os
import re
import subprocess
import sys
import tempfile

from check import ROOT, SCRATCH, check, end, program, short

DOCUMENTS = ["README.md", "WALKTHROUGH.md"]
PROGRAMS = ["run", "train", "convert", "tokenizer"]
LINK = re.compile(r"\[([^\]\n]*)\]\(([^)\s]+)\)")
DIFFERS = [(re.compile(r"\d+(\.\d+)? (tok/s|GB/s)"), r"N \2"),
           (re.compile(r"\b(amx|avx512bf16|avx512|avx2|plain), \d+ threads"), "LEVEL, N threads")]
MARK = "=-=-= end of block"


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return file.read()


def defined_at(file, name):
    """The line, from 1 on, where a C or Python source defines a name; None if it does not."""
    text, n = read(file), re.escape(name)
    for pattern, opens in (  # opens: the line that opens it counts, else the one with the name
            (rf"^#define {n}\b", True),
            (rf"^(def|class) {n}\b", True),
            (rf"^(typedef )?struct {n} \{{", True),
            (rf"^typedef \w+ \{{[^{{}}]*^\}} {n};", True),
            (rf"^enum \{{[^{{}}]*\b{n}\b", True),
            (rf"^[A-Za-z_][^;{{}}#=]*?\b{n}\([^;{{}}]*\{{", False),
            (rf"^[A-Za-z_][^;{{}}#()]*?\b{n}(\[\w*\])*\s*=", False),
            (rf"^[A-Za-z_][^;{{}}#=]*?\b{n}\([^;{{}}]*;", False)):  # only a prototype
        found = re.search(pattern, text, re.MULTILINE)
        if found:
            at = found.start()
            if not opens:
                at = re.compile(rf"\b{n}\b").search(text, at).start()
            return text.count("\n", 0, at) + 1
    return None


def fences(text):
    """Yields (language, first line of the block from 1 on, its text)."""
    language, block = None, []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("```"):
            block.append(line)
        elif language is None:
            language, first, block = line[3:].strip(), number + 1, []
        else:
            yield language, first, "".join(text + "\n" for text in block)
            language, block = None, []


def check_links(document):
    """Every relative link; with --fix, line numbers are set right first."""
    outside = re.sub(r"^```.*?^```$", lambda m: "\n" * m.group().count("\n"), read(document),
                     flags=re.MULTILINE | re.DOTALL)
    wrong, links, definitions = [], 0, 0
    for found in LINK.finditer(outside):
        label, (file, _, anchor) = found.group(1), found.group(2).partition("#")
        where = f"line {outside.count(chr(10), 0, found.start()) + 1}: {found.group()}"
        if re.match(r"[a-z]+:", file) or not file:
            continue
        links += 1
        if not os.path.exists(os.path.join(ROOT, file)):
            wrong.append(f"{where}: there is no such file")
        elif re.fullmatch(r"L\d+", anchor):
            definitions += 1
            name = re.fullmatch(r"`(\w+)`", label)
            line = defined_at(file, name.group(1)) if name else None
            if line is None:
                wrong.append(f"{where}: expected the `name` of something that {file} defines")
            elif anchor != f"L{line}":
                wrong.append(f"{where}: defined in line {line}; tests/test_docs.py --fix")
    check(f"{document}: {links} links, {definitions} of them to definitions", links and not wrong,
          "; ".join(wrong) or "no link found")


def fix_links(document):
    def right(found):
        line = defined_at(found.group(2), found.group(1))
        return f"[`{found.group(1)}`]({found.group(2)}#L{line})" if line else found.group()

    text = read(document)
    fixed = re.sub(r"\[`(\w+)`\]\(([\w./]+)#L\d+\)", right, text)
    if fixed != text:
        with open(os.path.join(ROOT, document), "w", encoding="utf-8") as file:
            file.write(fixed)


def session(blocks, directory):
    """Runs blocks one after the other in one shell: [(exit code, stdout, stderr)] of those it came
    to the end of."""
    for name in os.listdir(ROOT):
        if not name.startswith(".") and name not in ("build", *PROGRAMS):
            os.symlink(os.path.join(ROOT, name), os.path.join(directory, name))
    for name in PROGRAMS:
        os.symlink(program(name), os.path.join(directory, name))
    models = program("models")  # run's default model lies beside it, also beside one of `make asan`
    if not os.path.lexists(models):
        os.symlink(os.path.join(ROOT, "models"), models)
    mark = f"\nstatus=$?; echo '{MARK}' $status; echo '{MARK}' >&2\n"
    done = subprocess.run(["bash", "-c", "".join(block + mark for block in blocks)],
                          cwd=directory, stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=250, check=False,
                          env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8",
                               "OMP_WAIT_POLICY": "passive"})
    out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    pieces = re.split(rf"{MARK} (\d+)\n", out)
    return list(zip(map(int, pieces[1::2]), pieces[0::2], err.split(MARK + "\n")))


def masked(text):
    for pattern, instead in DIFFERS:
        text = pattern.sub(instead, text)
    return text.removesuffix("\n")


def check_blocks(document):
    found = list(fences(read(document))) + [(None, 0, "")]
    blocks = [(first, block, after if kind == "text" else "")
              for (language, first, block), (kind, _, after) in zip(found, found[1:])
              if language == "sh"]
    with tempfile.TemporaryDirectory(dir=SCRATCH) as directory:
        results = session([block for _, block, _ in blocks], directory)
    for i, (first, block, want) in enumerate(blocks):
        name = f"{document}:{first}: {block.splitlines()[0]}"
        if i >= len(results):
            check(name, False, "the shell had ended before")
            continue
        code, out, err = results[i]
        got = masked(out)
        if code:
            check(name, False, f"exit code {code}, {short(err)}")
        elif got != masked(want):
            line = next((a, b) for a, b in zip((got + "\n(end)").split("\n"),
                                               (masked(want) + "\n(end)").split("\n")) if a != b)
            check(name, False, f"prints {short(line[0])}, the text has {short(line[1])}")
        else:
            check(name, True)


def main():
    os.makedirs(SCRATCH, exist_ok=True)
    for document in DOCUMENTS:
        if "--fix" in sys.argv[1:]:
            fix_links(document)
        check_links(document)
        check_blocks(document)
    end()


main()
