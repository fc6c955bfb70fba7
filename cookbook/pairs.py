"""pairs.py: which functions and files the later stages learn from."""

import json
import os
import shutil

from stages import whole


def unpack(source, folder):
    shutil.rmtree(whole(folder), ignore_errors=True)
    os.makedirs(whole(folder))
    with open(whole(source), encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            with open(whole(f"{folder}/{number:07}.py"), "w", encoding="utf-8") as file:
                file.write(json.loads(line)["content"])


def instruct_pairs(kitchen, source, out, words, tested=False):
    """Instruction and output of functions with docstrings; tested: whose examples pass."""
    if tested:
        kitchen.do("none with examples", lambda: open(whole(out), "w", encoding="utf-8").close())
        return
    folder = kitchen.here("files")
    kitchen.do(f"{source} to {folder}", unpack, source, folder)
    kitchen.run("python3", "tests/docstring_pairs.py", folder, out)
    if not kitchen.dry:
        shutil.rmtree(whole(folder))


def algorithmic(kitchen, source, out, phrases):
    """The files of a corpus in which a phrase occurs."""
    def select():
        with open(whole(source), encoding="utf-8") as lines, \
                open(whole(out), "w", encoding="utf-8") as file:
            for line in lines:
                text = json.loads(line)["content"].lower()
                if any(phrase in text for phrase in phrases):
                    file.write(line)
    kitchen.do(f"{source} to {out}: files with {' or '.join(phrases)}", select)
