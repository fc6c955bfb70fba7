"""bad_sources.py: the bad source files of test_refine_bad.py.

What to know first: FILES says of each file what `read` makes of it: the reason why it is dropped,
or "" where it passes. HOSTILE are texts of any length that want to lead a scanner astray, in the
languages that they are meant for; `read` lets all of them pass. plant() makes a tree of both, with
what is no file in it."""

import os
import random
import stat
from collections import Counter

from check import write_file

LIMIT = 8 << 20
MILLION = 10 ** 6
CODE = '#include <stdio.h>\nint main(void) {\n    return puts("one");\n}\n'
BOOK = '{"cells": [{"cell_type": "code", "source": %s}]}'
LARGE, LATIN, BROKEN, NO_LANGUAGE = "larger than 8 MB", "not UTF-8", "broken notebook", \
    "unknown language"

FILES = {
    # sizes, blanks, ends of lines
    "empty.py": ("empty", ""), "byte.c": ("", "a"), "blanks.py": ("", "  \t \n" * 500),
    "cr.c": ("", CODE.replace("\n", "\r")), "crlf.c": ("", CODE.replace("\n", "\r\n")),
    "mixed.c": ("", CODE.replace("\n", "\r\n\n\r\r\r\n")), "unended.c": ("", CODE.strip()),
    "separators.js": ("", "a\u2028b\u2029c\x85d\ve\ff\x1cg\n" * 99),
    "limit.py": ("", "x = 1\n".ljust(LIMIT, "a")), "over.c": (LARGE, "a" * (LIMIT + 1)),
    "line.js": (LARGE, "a b " * 2500000), "letter.c": (LARGE, "a" * 10 * MILLION),
    "holes.c": (LARGE, 1 << 40),
    # a million of one thing
    "parentheses.py": ("", "(" * MILLION), "brackets.js": ("", "[" * MILLION),
    "quotes.c": ("", '"' * MILLION), "comments.css": ("", "/*" * (MILLION // 2)),
    "backslashes.sh": ("", "\\" * MILLION), "spaces.rb": ("", "a" + " " * MILLION + "b\n"),
    "feeds.go": ("", "\n" * MILLION), "accents.txt": ("", "e" + "\u0301" * (MILLION // 2)),
    "base64.js": ("", "aGVsbG8g" * (MILLION // 8)),
    # NUL and encodings
    "nuls.c": ("binary", "\0" * 4096), "nul.c": ("binary", CODE + "\0" + CODE),
    "last.c": ("binary", CODE + "\0"), "elf.c": ("binary", b"\x7fELF\2\1\1" + b"\0" * 57),
    "le.c": ("binary", CODE.encode("utf-16-le")), "be.c": ("binary", CODE.encode("utf-16-be")),
    "le-bom.c": ("binary", b"\xff\xfe" + CODE.encode("utf-16-le")),
    "be-bom.c": ("binary", b"\xfe\xff" + CODE.encode("utf-16-be")),
    "utf-32.c": ("binary", CODE.encode("utf-32")), "utf-7.c": ("", CODE.encode("utf-7")),
    "chinese.c": (LATIN, "\u4e2d\u6587".encode("utf-16-le")),
    "latin.c": (LATIN, b"// caf\xe9\n"), "gbk.c": (LATIN, "// \u4e2d\u6587\n".encode("gbk")),
    "sjis.c": (LATIN, "// \u65e5\u672c\n".encode("shift-jis")),
    "bom.c": ("", "\ufeff" + CODE), "boms.c": ("", "\ufeff" * 2), "bom-only.c": ("", "\ufeff"),
    "stray.c": (LATIN, b"a\x80b"), "overlong2.c": (LATIN, b"\xc0\xaf"),
    "overlong3.c": (LATIN, b"\xe0\x80\xaf"), "overlong4.c": (LATIN, b"\xf0\x80\x80\xaf"),
    "surrogate.c": (LATIN, b"\xed\xa0\x80"), "cesu.c": (LATIN, b"\xed\xa0\xbd\xed\xb8\x80"),
    "beyond.c": (LATIN, b"\xf4\x90\x80\x80"), "five.c": (LATIN, b"\xf8\x88\x80\x80\x80"),
    "ff.c": (LATIN, b"\xff" * 999), "cut2.c": (LATIN, b"1234567\xc3"),
    "cut3.c": (LATIN, b"12345678\xe2\x82"), "cut4.c": (LATIN, b"\xf0\x9f\x98"),
    "late.c": (LATIN, b"a" * MILLION + b"\xff"), "nonchar.c": ("", "a\uffff\ufdd0b\n"),
    # characters that do something
    "bidi.py": ("", "x = '\u202e\u2066'  # \u2069\u200f\n" * 40),
    "escapes.sh": ("", "\x1b]0;a\7\x9b\n"), "joined.md": ("", "a" + "\u200d" * 9999),
    "controls.c": ("", "".join(map(chr, range(1, 32))) + "\x7f"),
    # notebooks
    "no.ipynb": (BROKEN, "nonsense"), "cut.ipynb": (BROKEN, BOOK[:30]),
    "deep.ipynb": (BROKEN, BOOK % ("[" * 500000)), "bom.ipynb": (BROKEN, "\ufeff{}"),
    "twice.ipynb": (BROKEN, '{"cells": [], "cells": []}'),
    "half.ipynb": (BROKEN, BOOK % r'"\ud800"'), "none.ipynb": ("empty", '{"cells": []}'),
    "blank.ipynb": ("empty", BOOK % '" \\n"'), "types.ipynb": ("empty", BOOK % '[1, {"a": [2]}]'),
    "ticks.ipynb": ("", BOOK % ('"' + "`" * 300000 + '"')), "nul.ipynb": ("", BOOK % r'"a\u0000"'),
    "cells.ipynb": ("", '{"cells": [' + ", ".join([BOOK[11:-2] % '"a"'] * 9999) + "]}"),
    "keys.ipynb": ("empty", "{" + "".join(f'"{i}": 0, ' for i in range(99999)) + '"cells": []}'),
    # names
    "new\nline.py": ("", "a = 1\n"), "-rf.py": ("", "b = 1\n"), b"\xff\xfe.py": ("", "c = 1\n"),
    "\x1b[31m\r\x07.py": ("", "d = 1\n"), "n" * 252 + ".py": ("", "e = 1\n"),
    "a\\\"'`$(b).py": ("", "f = 1\n"), "\u202eyp.exe": (NO_LANGUAGE, "g"), ".py": ("", "h"),
    "a.py ": (NO_LANGUAGE, "i"), "x.tar": (NO_LANGUAGE, "nonsense"), "x.jsonl": ("", "{}\n"),
    "directory.py/in.c": ("", "int k;\n"), "d/" * 300 + "deep.c": ("", "int l;\n"),
}


def some_words(n):
    rng = random.Random(n)
    return " ".join(f"w{rng.randrange(MILLION)}" for _ in range(n // 8))


# (languages by their endings, what is repeated, or a description and a function of the bytes)
HOSTILE = [
    # brackets, quotes and comments that stay open
    ("py c js html sql", "("), ("json js", "["), ("java cs css", "{"), ("html xml cpp", "<"),
    ("c py sh", '"'), ("sql pas", "'"), ("js sh md", "`"), ("c py tex", "\\"), ("py", '"""'),
    ("c css sql php", "/*"), ("c js", "*/"), ("html md", "<!--"), ("pas ml", "(*"), ("lua", "--[["),
    ("hs", "{-"), ("html", "<script>"), ("php", "<?php "), ("sh rb pl", "<<E\n"), ("cpp", 'R"('),
    ("js sh", "${"), ("rb pl", "=begin\n"), ("c h", "#if 1\n"), ("c java go cs", "f(a "),
    ("cs", "[\n"), ("cs java", "a b(\n"), ("c cpp", "#include <\n"), ("java js", '= "'),
    ("c rb", '" + \''), ("py go", "import ("), ("py", "lambda: "), ("js ts", "return ("),
    ("html", '<a href="'), ("html", "&"), ("md", "[a]("), ("md html", "* * "),
    ("json", "[[...]]", lambda n: "[" * (n // 2) + "]" * (n // 2)),
    ("py lua", "((...))", lambda n: "(" * (n // 2) + ")" * (n // 2)),
    ("html xml", "<a>...</a>", lambda n: "<a>" * (n // 7) + "</a>" * (n // 7)),
    ("sh", "<<w1. <<w2.", lambda n: "".join(f"<<w{i:06}. " for i in range(n // 11))),
    ("cpp", 'R"1( R"2(', lambda n: "".join(f'R"{i}( ' for i in range(n // 9))),
    ("html", "a */ behind scripts", lambda n: "<script>/* </script>" * (n // 20) + "*/"),
    ("c", "a ) for many main(", lambda n: "main(" * (n // 10) + ")" + " " * (n // 2)),
    ("c", "#if 0 and blank lines", lambda n: "#if 0\n" + " \n" * (n // 2)),
    # personal data
    ("c py", "a.b@c.org "), ("c", "a.b@"), ("js", "@-"), ("py", "8.8.4.4 "), ("c", "1."),
    ("c", "1:"), ("py js", "AKIAABCDEFGHIJKLMNOP "), ("js", "eyJ."), ("c", "-----BEGIN "),
    ("py sh", "-----BEGIN PRIVATE KEY-----\n"), ("py js", 'password = "'), ("js", "api-key-"),
    ("java", "@author "), ("py", "# Author: Ann Lee and Bo Cy, "), ("js md", "https://u:p@h "),
    ("html txt", "https://a.org/b "), ("py txt", "a...a@", lambda n: "a" * n + "@"),
    # notices
    ("c java", "// Copyright\n"), ("py sh", "# Copyright 2020 "), ("c css", "/* Copyright\n"),
    ("html", "<!-- Copyright -->\n"),
    # data, characters, blanks, words
    ("c js", "0x1f,"), ("c py", "\\x41"), ("js java", "\\u0041"), ("c txt", "1"),
    ("txt md", "\u0301"), ("txt py", "\u4e2d"), ("py", "\U0001f600"), ("py c txt", " "),
    ("py c cs yaml", " \n"), ("c py", "\r"), ("html py", "\t"), ("txt", "- a\n"),
    ("yaml", "a: &a *a\n"), ("py txt c", "w1 w2 w3", some_words),
    ("c sql", "lines", lambda n: "".join(f"line {i}\n" for i in range(n // 11))),
]


def hostile(case, ext, n):
    """About n bytes; with words of its own at the end, so that it is nobody's near duplicate."""
    _, unit, *make = HOSTILE[case]
    text = make[0](n) if make else unit * (n // len(unit.encode()))
    return f"{text}\n{some_words(200 + 7 * case + len(ext) + ord(ext[0]))}\n"


def plant(tree):
    """Makes the tree; returns how many files `read` should drop for which reason, "" for none."""
    fates = Counter()
    for name, (fate, content) in FILES.items():
        path = os.path.join(tree, os.fsdecode(name))
        write_file(path, "" if isinstance(content, int) else content)
        if isinstance(content, int):
            os.truncate(path, content)
        fates[fate] += 1
    for case, (exts, *_) in enumerate(HOSTILE):
        for ext in exts.split():
            write_file(os.path.join(tree, "hostile", f"{case}.{ext}"), hostile(case, ext, 20000))
            fates[""] += 1
    for name, target in (("a.c", "b.c"), ("b.c", "a.c"), ("self.c", "self.c"), ("up.c", "../.."),
                         ("none.c", "nowhere"), ("zero.c", "/dev/zero"), ("code.c", "../cr.c")):
        os.makedirs(os.path.join(tree, "links"), exist_ok=True)
        os.symlink(target, os.path.join(tree, "links", name))
        fates["a link"] += 1
    os.mkfifo(os.path.join(tree, "fifo.c"))
    os.mknod(os.path.join(tree, "socket.c"), 0o600 | stat.S_IFSOCK)
    fates["not a regular file"] += 2
    os.mkdir(os.path.join(tree, "nothing.c"))
    if os.geteuid():
        os.chmod(write_file(os.path.join(tree, "closed.c"), "a"), 0)
        os.mkdir(os.path.join(tree, "closed"), 0)
        fates["unreadable"] += 2
    at = os.open(tree, os.O_RDONLY)
    for _ in range(20):  # 5000 bytes of path: the directory beyond the 4096th cannot be named
        os.mkdir("p" * 250, dir_fd=at)
        inner = os.open("p" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    fates["unreadable"] += 1
    return fates
