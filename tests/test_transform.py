#!/usr/bin/env python3
"""Tests ./refine transform: copyright notices in every syntax of comments, and personal data: each
line of tests/data/pii.jsonl, with the precision and recall that came out."""

import json
import os
import random

from check import ROOT, check, check_equal, end, skip
from refine_case import REFINE, STRICT, documents, fresh, refine, stats_of

KINDS = {"email": "<email>", "ip": "<ip_address>", "key": "<key>", "password": "<password>",
         "name": "<name>"}
NOTICE = ["Copyright (c) 2021 Jane Roe", "", "Licensed under the Apache License, Version 2.0;",
          "you may not use this file except in compliance with the License."]
ABOUT = ["Reads a table", "and prints it."]

# language, opening line, what begins each line, closing line; code that follows
SYNTAXES = [
    ("C", "/*", " * ", " */", "int main(void) { return 0; }"),
    ("C", None, "// ", None, "int main(void) { return 0; }"),
    ("C++", None, "/// ", None, "int x;"),
    ("C#", "/*", "", "*/", "class A { }"),
    ("Go", None, "// ", None, "package main"),
    ("Java", "/**", " * ", " */", "class A { }"),
    ("JavaScript", "/*!", " * ", " */", "var x = 1;"),
    ("TypeScript", "/*", " ", "*/", "let x = 1;"),
    ("Python", None, "# ", None, "import os"),
    ("Python", '"""', "", '"""', "import os"),
    ("Shell", None, "# ", None, "echo hello"),
    ("Perl", None, "# ", None, "use strict;"),
    ("Ruby", None, "# ", None, "puts 1"),
    ("Makefile", None, "# ", None, "all: run"),
    ("SQL", None, "-- ", None, "SELECT 1;"),
    ("Lua", "--[[", "", "]]", "print(1)"),
    ("Haskell", "{-", "", "-}", "main = print 1"),
    ("HTML", "<!--", "  ", "-->", "<p>text</p>"),
    ("CSS", "/*", " * ", " */", "p { color: red }"),
    ("OCaml", "(*", " * ", " *)", "let x = 1"),
    ("Erlang", None, "%% ", None, "-module(a)."),
    ("Fortran", None, "! ", None, "program a"),
    ("Clojure", None, ";; ", None, "(ns a)"),
    ("Pascal", "{", "  ", "}", "program a;"),
    ("Vim Script", None, '" ', None, "set nu"),
    ("Batchfile", None, "REM ", None, "echo x"),
    ("PowerShell", "<#", "", "#>", "Get-Item x"),
    ("Rust", None, "// ", None, "fn main() {}"),
    ("Twig", "{#", "", "#}", "{{ x }}"),
]


def one(language, content):
    return {"language": language, "type": "code", "path": "a", "content": content}


def transformed(*records, options=()):
    stdin = "\n".join(json.dumps(r) for r in records).encode()
    return [d["content"] for d in documents("transform", *options, stdin=stdin)]


def comment(syntax, said):
    _, opening, mark, closing, _ = syntax
    lines = [opening] if opening else []
    lines += [(mark + line).rstrip() if line else mark.rstrip() for line in said]
    return "\n".join(lines + ([closing] if closing else [])) + "\n"


def test_notices():
    for syntax in SYNTAXES:
        name = f"{syntax[0]} {syntax[1] or syntax[2].strip()}"
        code = syntax[4] + "\n"
        got = transformed(one(syntax[0], comment(syntax, NOTICE) + "\n" + code),
                          one(syntax[0], comment(syntax, ABOUT) + "\n" + code),
                          one(syntax[0], comment(syntax, NOTICE + [""] + ABOUT) + code))
        check_equal(f"{name}: a notice goes, with the empty line behind it", got[0], code)
        check_equal(f"{name}: another comment stays", got[1], comment(syntax, ABOUT) + "\n" + code)
        check(f"{name}: of both, what is no notice stays",
              "Reads a table" in got[2] and "opyright" not in got[2] and
              "icense" not in got[2] and got[2].endswith(code), repr(got[2]))
        if syntax[1]:
            check(f"{name}: the comment is still one",
                  syntax[1] in got[2] and syntax[3].strip() in got[2], repr(got[2]))


def test_places():
    notice = "# Copyright 2020 A. B.\n"
    cases = [
        ("#! stays in front", "#!/bin/sh\n" + notice + "\necho\n", "#!/bin/sh\necho\n"),
        ("an encoding stays", "# -*- coding: utf-8 -*-\n" + notice + "x = 1\n",
         "# -*- coding: utf-8 -*-\nx = 1\n"),
        ("a second comment goes", "# Reads.\n\n" + notice + "x = 1\n", "# Reads.\n\nx = 1\n"),
        ("later ones stay", "x = 1\n" + notice, "x = 1\n" + notice),
        ("code behind a block stays", "x = 1 # Copyright\n", "x = 1 # Copyright\n"),
        ("nothing but a notice", notice, ""),
        ("nothing", "", ""),
        ("a comment that never ends", '"""Copyright', '"""Copyright'),
        ("carriage returns", "# Copyright 2020\r\n\r\nx = 1\r\n", "x = 1\r\n"),
    ]
    got = transformed(*(one("Python", text) for _, text, _ in cases))
    for (name, _, want), text in zip(cases, got):
        check_equal(name, text, want)
    text = "/* Copyright */ int x;\n"
    check_equal("code on the line of a comment", transformed(one("C", text)), [text])
    check_equal("a language without comments", transformed(one("JSON Lines", notice)), [notice])
    check_equal("--keep-notices", transformed(one("Python", notice), options=["--keep-notices"]),
                [notice])


def labelled():
    with open(os.path.join(ROOT, "tests", "data", "pii.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def test_pii():
    """Of each line: the text, and the text as it should be, where that is another one."""
    lines = labelled()
    got = transformed(*(one("Python", line["text"]) for line in lines), options=["--keep-notices"])
    counts = {kind: [0, 0, 0] for kind in KINDS}  # found, missed, wrong
    surprises = 0
    for line, text in zip(lines, got):
        want = line.get("want", line["text"])
        for kind, mark in KINDS.items():
            n_want, n_got = want.count(mark), text.count(mark)
            both = min(n_want, n_got)
            counts[kind][0] += both
            counts[kind][1] += n_want - both
            counts[kind][2] += n_got - both
        surprises += (text == want) == bool(line.get("known"))
        if (text == want) == bool(line.get("known")):
            check(f"pii: {line['text']}", False, f"got {text!r}, expected {want!r}")
    check("pii: every line as it is labelled", not surprises, surprises)
    for kind, (found, missed, wrong) in [*counts.items(), ("all", [sum(c) for c in
                                                                   zip(*counts.values())])]:
        precision = found / max(1, found + wrong)
        recall = found / max(1, found + missed)
        check(f"pii: {kind}: {found + missed} hits, precision {precision:.3f}, "
              f"recall {recall:.3f}", precision >= 0.9 and recall >= 0.9)
    check("pii: as many near misses as hits",
          sum("want" not in line for line in lines) >= sum("want" in line for line in lines) * 0.7)


def test_statistics():
    stdin = json.dumps(one("C", "// Copyright\n\n// a@b.org, c@d.org\nint x;\n")).encode()
    stats = stats_of("transform", stdin=stdin)[0]["transform"]
    check_equal("statistics count files, a file of two addresses once",
                {name: at["files"] for name, at in stats["counts"].items()},
                {"copyright notice": 1, "e-mail address": 1})
    got = transformed(one("C", "// a@b.org\n"), options=["--keep-pii"])
    check_equal("--keep-pii", got, ["// a@b.org\n"])


def test_hostile():
    rng = random.Random(7)
    pieces = ["@", "a@", "://", ":", "-----BEGIN ", "/*", "*/", "#", '"""', "password = '", "eyJ",
              "1.2.3.", "::", "author:", " by ", "Copyright", "\n", "\u00e9", "\0", " ", "(c) 20"]
    soups = ["".join(rng.choice(pieces) for _ in range(400)) for _ in range(150)]
    big = ["@" * 2_000_000, "a.b@" * 500_000, "1." * 1_000_000, ":" * 2_000_000,
           "/*" * 1_000_000, "-----BEGIN PRIVATE KEY-----\n" * 50_000, "// Copyright\n" * 100_000,
           "x://a:" * 300_000, "password" * 200_000, "author " * 200_000, "eyJ." * 400_000]
    languages = ["C", "Python", "HTML", "Lua", "PHP"]
    records = [one(languages[i % 5], text) for i, text in enumerate(soups + big)]
    stdin = "\n".join(json.dumps(r) for r in records).encode()
    code, out, err = refine("transform", "-q", stdin=stdin, program=STRICT)
    check_equal("odd and long inputs", (code, err, out.count(b"\n")), (0, "", len(records)))
    again = refine("transform", "-q", "-j", "1", stdin=stdin, program=STRICT)[1]
    check("the same with one thread", out == again)


if os.path.exists(REFINE):
    fresh("transform")
    test_notices()
    test_places()
    test_pii()
    test_statistics()
    test_hostile()
else:
    skip("transform", "refine is not built")
end()
