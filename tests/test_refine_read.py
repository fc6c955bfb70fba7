#!/usr/bin/env python3
"""Tests ./refine read: directories, git, archives, notebooks, languages, and what is no text."""

import io
import json
import os
import shutil
import subprocess
import tarfile
import zipfile

from check import check, check_equal, end, short, skip, write_file
from refine_case import STRICT, documents, fresh, lines, refine, refused, stats_of

PLACE = fresh("read")


def by_path(*words, **more):
    return {d["path"]: d for d in documents("read", *words, program=STRICT, **more)}


def test_languages():
    """Name first, then the longest extension; programming and markup are code, prose is text."""
    cases = [
        ("a.py", "Python", "code", "py"), ("A.PY", "Python", "code", "PY"),
        ("Makefile", "Makefile", "code", None), ("CMakeLists.txt", "CMake", "code", "txt"),
        ("a.txt", "Text", "text", "txt"), ("README.md", "Markdown", "text", "md"),
        ("a.h", "C", "code", "h"), ("a.hpp", "C++", "code", "hpp"), ("a.cs", "C#", "code", "cs"),
        ("a.html", "HTML", "code", "html"), ("a.json", "JSON", "data", "json"),
        ("a.yaml", "YAML", "data", "yaml"), ("a.blade.php", "Blade", "code", "php"),
        ("a.php", "PHP", "code", "php"), ("a.ts", "TypeScript", "code", "ts"),
        ("a.m", "Objective-C", "code", "m"), ("a.v", "Verilog", "code", "v"),
        ("a.rs", "Rust", "code", "rs"), ("a.sql", "SQL", "data", "sql"),
        ("a.go", "Go", "code", "go"),
        ("a.sh", "Shell", "code", "sh"), ("a.java", "Java", "code", "java"),
        ("a.js", "JavaScript", "code", "js"), ("go.mod", "Go Module", "data", "mod"),
        ("a.1", "Roff", "code", "1"), (".bashrc", "Shell", "code", None),
        ("dir.py/Dockerfile", "Dockerfile", "code", None),
    ]
    place = os.path.join(PLACE, "languages")
    for name, *_ in cases:
        write_file(os.path.join(place, name), "text\n")
    for name in ("none", "a.unheard", "dir.py/none", "makefile2", "x" * 250):
        write_file(os.path.join(place, name), "text\n")
    found = by_path(place)
    for name, language, kind, ext in cases:
        d = found.get(name, {})
        check_equal(f"language of {name}", (d.get("language"), d.get("type"), d.get("ext")),
                    (language, kind, ext))
    check_equal("others are dropped", len(found), len(cases))
    check_equal("but for --unknown", len(by_path(place, "--unknown")), len(cases) + 5)
    data = json.dumps({"path": "b/a.rb", "text": "x"}).encode()
    check_equal("a line without a language gets one",
                by_path("-", stdin=data)["b/a.rb"]["language"], "Ruby")


def test_files():
    place = os.path.join(PLACE, "files")
    for name, data in (("ok.c", "int x;\n"), ("empty.c", ""), ("binary.c", b"a\0b"),
                       ("latin.c", b"caf\xe9"), ("half.c", b"\xf0\x9f\x98"), ("utf8.c", "é😀"),
                       ("limit.txt", b"a" * (8 << 20)), ("large.txt", b"a" * ((8 << 20) + 1)),
                       (".git/config.c", "x"), ("sub/.svn/a.c", "x"), (".hidden/a.c", "x"),
                       ("sub/sub/a.c", "x"), (b"bad\xff.c", "x")):
        path = os.path.join(place, os.fsdecode(name))
        write_file(path, data)
    os.symlink("ok.c", os.path.join(place, "link.c"))
    os.symlink("..", os.path.join(place, "sub", "up"))
    os.symlink("nowhere", os.path.join(place, "dangling.c"))
    os.mkfifo(os.path.join(place, "fifo.c"))
    found = by_path(place)
    check_equal("what is text stays", sorted(found), sorted(
        ["ok.c", "utf8.c", "limit.txt", ".hidden/a.c", "sub/sub/a.c", "bad\ufffd.c"]))
    check_equal("its fields", {k: v for k, v in found["ok.c"].items() if k != "repo"}, {
        "path": "ok.c", "ext": "c", "language": "C", "type": "code", "stars": 0, "commit_time": 0,
        "size": 7, "content": "int x;\n"})
    stages, _ = stats_of("read", place, program=STRICT)
    check_equal("all others are counted", {k: v["files"] for k, v in
                                           stages["read"]["dropped"].items()},
                {"empty": 1, "binary": 1, "not UTF-8": 2, "larger than 8 MB": 1, "a link": 3,
                 "not a regular file": 1})
    err = refine("read", place, "-v", program=STRICT)[2]
    check("and named on request", f"{place}/binary.c: dropped: binary" in err, err)
    if os.geteuid():
        os.chmod(os.path.join(place, "ok.c"), 0)
        check("unreadable", "ok.c: dropped: unreadable" in refine("read", place, "-v")[2])
    check_equal("a single file", list(by_path(os.path.join(place, "utf8.c"))), ["utf8.c"])
    refused("no such input", 1, ["none", "cannot open"], "read", os.path.join(place, "none"))
    refused("no input", 2, ["no input"], "read")


def test_repositories():
    place = os.path.join(PLACE, "github")
    for owner in ("ann", "bob"):
        for name in ("one", "two"):
            write_file(os.path.join(place, owner, name, "src", "a.c"), f"{owner} {name}\n")
    meta = lines(os.path.join(PLACE, "meta.jsonl"), {"repo": "ann/two", "stars": 9,
                                                     "commit_time": 77}, {"repo": "bob/one"})
    found = documents("read", place, "--repo-depth", 2, "--meta", meta, "--stars", 3)
    check_equal("names, stars and times", [(d["repo"], d["path"], d["stars"], d["commit_time"])
                                           for d in found],
                [("ann/one", "src/a.c", 3, 0), ("ann/two", "src/a.c", 9, 77),
                 ("bob/one", "src/a.c", 3, 0), ("bob/two", "src/a.c", 3, 0)])
    found = documents("read", place, "--repo-depth", 2, "--meta", meta, "--min-stars", 9)
    check_equal("--min-stars keeps what has as many", {d["repo"] for d in found}, {"ann/two"})
    check_equal("and drops what has less", documents(
        "read", place, "--repo-depth", 2, "--meta", meta, "--min-stars", 10), [])
    found = documents("read", place, "--commit-time", 5)
    check_equal("one repository", {(d["repo"], d["commit_time"]) for d in found}, {("github", 5)})
    check_equal("--repo", {d["repo"] for d in documents("read", place, "--repo", "x/y")}, {"x/y"})
    times = {d["path"]: d["commit_time"] for d in documents("read", place, "--mtime")}
    check_equal("--mtime", times["ann/one/src/a.c"],
                int(os.stat(os.path.join(place, "ann", "one", "src", "a.c")).st_mtime))
    refused("a broken --meta", 1, ["bad.jsonl:1", "repo"], "read", place, "--meta",
            lines(os.path.join(PLACE, "bad.jsonl"), {"stars": 1}))
    if not shutil.which("git"):
        return skip("git", "it is not installed")
    repo = os.path.join(place, "bob", "two")

    def git(*words, time=0):
        date = f"{time} +0000"
        subprocess.run(["git", "-C", repo, "-c", "user.name=n", "-c", "user.email=e",
                        "-c", "init.defaultBranch=main", *words], check=True, capture_output=True,
                       env={**os.environ, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date})
    git("init")
    git("add", ".")
    git("commit", "-m", "1", time=1700000000)
    write_file(os.path.join(repo, "new é.c"), "x")
    git("add", ".")
    git("commit", "-m", "2", time=1700000500)
    write_file(os.path.join(repo, "untracked.c"), "x")
    found = {d["path"]: (d["repo"], d["commit_time"]) for d in documents("read", place, "--git-log")
             if d["repo"] == "bob/two"}
    check_equal("a git repository inside, and its times", found, {
        "src/a.c": ("bob/two", 1700000000), "new é.c": ("bob/two", 1700000500),
        "untracked.c": ("bob/two", 0)})
    broken = os.path.join(PLACE, "nogit")
    write_file(os.path.join(broken, ".git"), "nonsense")
    write_file(os.path.join(broken, "a.c"), "x")
    code, out, err = refine("read", broken, "--git-log", "-q", program=STRICT)
    check("a broken .git is said", code == 0 and b'"a.c"' in out and "git log failed" in err, err)


def test_no_programs():
    """libarchive knows formats for which it starts a program, told by the first bytes alone."""
    place, mark = os.path.join(PLACE, "programs"), os.path.join(PLACE, "started")
    for name, magic in (("lrzip", b"LRZI\0\6"), ("lzop", b"\x89LZO\0\r\n\x1a\n\x10\x40"),
                        ("grzip", b"GRZipII\0\2\4:)")):
        os.chmod(write_file(os.path.join(place, name), f"#!/bin/sh\ntouch {mark}\n"), 0o755)
        path = write_file(os.path.join(place, name + ".tar"), magic + bytes(60))
        refine("read", path, "-q", env={"PATH": place + ":" + os.environ["PATH"]})
        check(f"an archive does not start {name}", not os.path.exists(mark), "it was started")


def test_archives():
    files = {"pkg-1/a.c": b"int a;\n", "./pkg-1/b.py": b"b = 1\n", "pkg-1/none": b"x",
             "pkg-1/bin.c": b"\0", "pkg-1/large.txt": b"a" * ((8 << 20) + 1)}
    tar = os.path.join(PLACE, "pkg-1.tar.gz")
    with tarfile.open(tar, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1234567890
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("pkg-1/link.c")
        link.type, link.linkname = tarfile.SYMTYPE, "../../etc/passwd"
        archive.addfile(link)
    zipped = os.path.join(PLACE, "pkg-2.zip")
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    code, _, err = refine("read", tar, "-q")
    if code and "without libarchive" in err:
        return skip("archives", "refine was built without libarchive")
    for path, repo in ((tar, "pkg-1"), (zipped, "pkg-2")):
        found = by_path(path)
        check_equal(f"files of {os.path.basename(path)}", {
            name: (d["repo"], d["content"], d["size"]) for name, d in found.items()},
            {"pkg-1/a.c": (repo, "int a;\n", 7), "pkg-1/b.py": (repo, "b = 1\n", 6)})
        stages, _ = stats_of("read", path, program=STRICT)
        check_equal("the others are counted", {k: v["files"] for k, v in
                                               stages["read"]["dropped"].items()},
                    {"unknown language": 1, "binary": 1, "larger than 8 MB": 1})
    check_equal("times of a tar", by_path(tar)["pkg-1/a.c"]["commit_time"], 1234567890)
    with open(tar, "rb") as file:
        data = file.read()
    for name, bad in (("cut", data[:len(data) // 2]), ("damaged", data[:40] + b"\xff" * 30 +
                                                       data[70:])):
        path = write_file(os.path.join(PLACE, name + ".tar.gz"), bad)
        code, _, err = refine("read", path, "-v", program=STRICT)
        check(f"a {name} archive is counted", code == 0 and "left out: " in err, err)
    path = write_file(os.path.join(PLACE, "no.zip"), b"nonsense" * 100)
    code, out, err = refine("read", path, tar, "-v", program=STRICT)
    check("what is no archive is counted, and the next one is read", code == 0 and
          out.count(b"\n") == 2 and "no.zip: no archive" in err, err)


def test_notebooks():
    book = {"nbformat": 4, "metadata": {"language_info": {"name": "julia"}}, "cells": [
        {"cell_type": "markdown", "source": ["# Title\n", "words\n"]},
        {"cell_type": "code", "source": "x = 1\n\n", "outputs": [{"text": ["secret"]}]},
        {"cell_type": "code", "source": []}, {"cell_type": "raw", "source": "raw"},
        {"cell_type": "code", "source": ["s = '```'"]}]}
    old = {"nbformat": 3, "metadata": {}, "worksheets": [{"cells": [
        {"cell_type": "code", "input": ["print 1"]}]}]}
    place = os.path.join(PLACE, "books")
    for name, text in (("a.ipynb", json.dumps(book)), ("b.ipynb", json.dumps(old)),
                       ("bad.ipynb", "{"), ("none.ipynb", "{}"), ("odd.ipynb", '{"cells": 5}'),
                       ("worse.ipynb", '{"cells": [5, {"cell_type": 1, "source": {"a": 1}}]}')):
        write_file(os.path.join(place, name), text)
    found = by_path(place)
    check_equal("cells to Markdown", found["a.ipynb"]["content"],
                "# Title\nwords\n\n```julia\nx = 1\n```\n\nraw\n\n````julia\ns = '```'\n````\n")
    check_equal("format 3", found["b.ipynb"]["content"], "```python\nprint 1\n```\n")
    check_equal("language", found["a.ipynb"]["language"], "Jupyter Notebook")
    stages, _ = stats_of("read", place, program=STRICT)
    check_equal("broken ones are counted", {k: v["files"] for k, v in
                                            stages["read"]["dropped"].items()},
                {"broken notebook": 2, "empty": 2})


def test_lines():
    path = lines(os.path.join(PLACE, "l.jsonl"), {"path": "a.py", "text": "x", "repo": "r/n"},
                 "broken", {"path": "b.unheard", "text": "x"}, {"path": "c.c", "text": ""},
                 {"path": "d.c", "text": "a\u0000b"}, {"language": "Go", "text": "x", "extra": [1]})
    found = documents("read", path, program=STRICT)
    check_equal("JSON Lines among the inputs", [(d.get("path"), d["language"]) for d in found],
                [("a.py", "Python"), (None, "Go")])
    check_equal("other members stay", found[1]["extra"], [1])
    whole = refine("read", PLACE, path, "-q")[1]
    check("the same from any number of threads", all(
        refine("read", PLACE, path, "-q", "-j", n)[1] == whole for n in (1, 2, 5)) and
        len(whole) > 8 << 20, short(whole[:200]))


for test in (test_languages, test_files, test_repositories, test_archives, test_notebooks,
             test_lines):
    test()
shutil.rmtree(os.path.join(PLACE, "files"))
end()
