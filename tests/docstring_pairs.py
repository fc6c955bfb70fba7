#!/usr/bin/env python3
"""docstring_pairs.py SRC_DIR OUT.jsonl [--limit N]: questions and answers from Python source.

A function with a docstring, 3 to 30 lines long without it, gives one line

    {"instruction": "Write a Python function `name(a, b)`: first paragraph of the docstring",
     "output": "```python\\n<the function without its docstring>\\n```"}

which `tokenizer pack` takes as a conversation. Same files, same pairs, in the order of their paths;
a function that stands in several files counts once. Directories that hold tests or installed
packages are left out. --limit takes N of them, spread evenly over all."""

import argparse
import ast
import json
import os
import sys
import textwrap
import warnings

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def sources(top):
    """Every .py file under a directory, in the order of their paths."""
    for place, directories, files in os.walk(top):
        directories[:] = sorted(set(directories) - LEFT_OUT)
        for name in sorted(files):
            if name.endswith(".py"):
                yield os.path.join(place, name)


def without_docstring(function, lines):
    """The source of a function, decorators included and docstring cut out; None where that cannot
    be done by lines."""
    doc = function.body[0]
    if len(function.body) < 2 or doc.lineno == function.lineno or \
            function.body[1].lineno <= doc.end_lineno:
        return None
    first = min([function.lineno] + [d.lineno for d in function.decorator_list])
    kept = lines[first - 1:doc.lineno - 1] + lines[doc.end_lineno:function.end_lineno]
    return textwrap.dedent("\n".join(kept)).strip("\n")


def pairs(path):
    """Yields (instruction, output) of the functions of a file; nothing where it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError):
        return
    lines = text.split("\n")  # as ast counts them, unlike splitlines, which also cuts at \f
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        paragraph = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
        code = without_docstring(node, lines) if paragraph else None
        if code and 3 <= code.count("\n") + 1 <= 30:
            yield (f"Write a Python function `{node.name}({ast.unparse(node.args)})`: {paragraph}",
                   f"```python\n{code}\n```")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--limit", type=int, default=0, metavar="N")
    options = parser.parse_args()
    found = {}
    for path in sources(options.source):
        for instruction, output in pairs(path):
            found.setdefault(output, instruction)
    rows = list(found.items())
    if not rows:
        sys.exit(f"error: {options.source}: no function with a docstring, expected Python source")
    if 0 < options.limit < len(rows):
        rows = [rows[i * len(rows) // options.limit] for i in range(options.limit)]
    with open(options.out, "w", encoding="utf-8") as file:
        for output, instruction in rows:
            print(json.dumps({"instruction": instruction, "output": output}), file=file)
    print(f"{len(rows)} pairs", file=sys.stderr)


if __name__ == "__main__":
    main()
