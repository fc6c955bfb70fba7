#!/usr/bin/env python3
"""Tests what ./refine recall reads: WARC, WET and JSON Lines, plain and compressed; answers of web
servers, charsets, HTML to text; and all that may be broken in them."""

import gzip
import json
import os
import random
import zlib

import crawl
from check import check, check_equal, end, short, skip
from recall_case import (CODE, FAKE, MODEL, PLACE, has_libraries, one, pack, pages, put, recalled,
                         run)
from refine_case import STRICT, refine

def read(*paths, more=()):
    """What is recalled, nothing but reading at work."""
    return recalled(*paths, "--model", MODEL, *more)


def wrong(*paths):
    """Recalled pages, and the lines that name what is broken or no page."""
    code, found, err = run(*paths, "--model", MODEL, "-v")
    lines = [line for line in err.splitlines() if ": " in line and "not code" not in line and
             not line.startswith(("left out", "iteration"))]
    return code, [d["url"] for d in found], lines


def named(name, data, wanted, survivors=("https://z.org/last",)):
    """A file with these records and a good one behind them: what is said, and what comes
    through."""
    path = put("named.warc", data + one(CODE, url="https://z.org/last"))
    code, found, lines = wrong(path)
    ok = code == 0 and sorted(found) == sorted(survivors) and len(lines) == len(wanted) and all(
        text in line and "named.warc" in line for text, line in zip(wanted, lines))
    check(name, ok, f"exit code {code}, {short(found)}, {short(lines)}, expected {wanted}")


def test_formats():
    made = crawl.crawl(40)
    for page in made:
        page["blocks"].append(("p", "p0900"))
    plain = crawl.warc(made, pack=False)
    files = {"plain.warc": plain, "members.warc.gz": crawl.warc(made), "wet.warc.wet.gz":
             crawl.wet(made), "text.jsonl": crawl.lines(made), "content.jsonl.gz":
             gzip.compress(crawl.lines(made, "content")), "whole.warc.gz": gzip.compress(plain),
             "zst.warc.zst": pack("zstd", plain), "lines.jsonl.zst":
             pack("zstd", crawl.lines(made)), "other.name": plain}
    urls = [page["url"] for page in made]
    for name, data in files.items():
        if data is None:
            skip(name, "no program zstd")
            continue
        found = read(put(name, data))
        check_equal(f"addresses of {name}", [d["url"] for d in found], urls)
        check(f"text of {name}", all(
            page["blocks"][0][1].split()[:3] == d["content"].split("\n", 1)[1].split()[:3]
            for page, d in zip(made, found)), short(found[:1]))
    first = read(put("one.warc", one(CODE)))[0]
    check_equal("all members", first, {
        "language": "Text", "type": "text", "stars": 0, "commit_time": 1709294400, "size": 10,
        "url": "https://a.org/1", "domain": "a.org", "score": 0.9, "iteration": 1,
        "why": "classifier", "content": "p0900 code"})
    kept = put("kept.jsonl", json.dumps({"url": "https://a.org", "text": "p0900", "id": [7],
                                         "score": "old", "why": 1}) + "\n")
    check_equal("members of lines stay, ours replace them", {
        key: value for key, value in read(kept)[0].items() if key in ("id", "score", "why")},
        {"id": [7], "score": 0.9, "why": "classifier"})
    target = crawl.record("<https://b.org/2>", b"p0900 text", "resource", "text/plain")
    check_equal("an address in < >, a resource, plain text", [
        (d["url"], d["content"]) for d in read(put("resource.warc", target))],
        [("https://b.org/2", "p0900 text")])


def test_html():
    cases = [
        ("<title>T &amp; t</title><p>a  b\n c</p><p>d", "T & t\n\na b c\n\nd"),
        ("<script>no()</script><style>no{}</style><p>yes<!-- no --> x", "yes x"),
        ("<pre>  int x;\n\n  y();\n</pre>after", "  int x;\n\n  y();\n\nafter"),
        ("<ul><li>one</li><li>two</li></ul>", "- one\n- two"),
        ("a<br>b<div>c</div>d", "a\nb\n\nc\n\nd"),
        ("<table><tr><td>1</td><td>2</td></tr><tr><td>3", "1 2\n3"),
        ("<p>x<b>y</b> <i>z</i>&lt;&#233;&nbsp;&eacute;", "xy z<é\u00a0é"),
        ("<form><select><option>no</select><button>no</button>yes</form>", "yes"),
        ("<p>unclosed <b>tags <div>nested</p></b>", "unclosed tags\n\nnested"),
        ("<head><title>Title</title><meta name=x></head><body>text</body>", "Title\n\ntext"),
        ("<p>1 < 2 && 3 > 2", "1 < 2 && 3 > 2"), ("<pre>a<br>b</pre>", "a\nb"),
        ("<nav>no</nav><noscript>no</noscript><p>yes", "yes"),
        ("<div>" * 3000 + "deep" + "</div>" * 3000, "deep"),
        ("<p>a\0b", "a b"), ("text alone", "text alone"),
        ("<code>x</code> <span>y</span>", "x y"),
        ("<title>T</title><p>a<svg><title>no</title></svg>b", "T\n\na\n\nb")]
    path = put("html.warc", b"".join(one(f"{text}<p>p0900".encode(), url=f"https://a.org/{i}")
                                     for i, (text, _) in enumerate(cases)))
    found = {d["url"]: d["content"] for d in read(path)}
    for i, (text, wanted) in enumerate(cases):
        check_equal(f"text of {text[:60]!r}", found.get(f"https://a.org/{i}", "").rsplit(
            "p0900", 1)[0].rstrip("\n"), wanted)


def test_charsets():
    text = "p0900 ключ é 中文"
    cases = [
        ("utf-8", "text/html; charset=utf-8", text.encode(), text),
        ("none said, UTF-8", "text/html", text.encode(), text),
        ("none said, not UTF-8", "text/html", b"p0900 caf\xe9 \x93x\x94", "p0900 café “x”"),
        ("gbk by header", "text/html; charset=\"gbk\"", "p0900 中文 代码".encode("gbk"),
         "p0900 中文 代码"),
        ("gb2312 by meta", "text/html", b"<meta charset=gb2312><p>" + "p0900 中文".encode("gbk"),
         "p0900 中文"),
        ("by http-equiv", "text/html", b"<meta http-equiv='Content-Type' content='text/html; "
         b"charset=shift_jis'><p>" + "p0900 日本".encode("shift_jis"), "p0900 日本"),
        ("UTF-16 by its mark", "text/html; charset=utf-8", b"\xff\xfe" + text.encode("utf-16-le"),
         text),
        ("a mark of UTF-8", "text/html; charset=gbk", b"\xef\xbb\xbf" + text.encode(), text),
        ("the web's latin1", "text/html; charset=iso-8859-1", b"p0900 \x80 \xe9", "p0900 € é"),
        ("unknown charset", "text/html; charset=no-such-one", text.encode(), text),
        ("unknown, not UTF-8", "text/html; charset=no-such-one", b"p0900 caf\xe9", "p0900 café"),
        ("1 of 100 bytes wrong", "text/html; charset=utf-8", b"p0900" + b" x" * 48 + b"\xff",
         "p0900" + " x" * 48 + "\ufffd"),
        ("META in capitals", "text/html", b"<META CHARSET=GBK><p>" + "p0900 中文".encode("gbk"),
         "p0900 中文"),
        ("meta that cannot be right", "text/html", b"<meta charset=utf-16><p>" + text.encode(),
         text),
        ("the web's gb2312 is more", "text/html; charset=gb2312", "p0900 镕〇".encode("gbk"),
         "p0900 镕〇"),
        ("the web's shift_jis is more", "text/html; charset=Shift_JIS",
         "p0900 ①髙".encode("cp932"), "p0900 ①髙"),
        ("a last letter that waits for an accent", "text/plain; charset=windows-1258", b"p0900 a",
         "p0900 a"),
        ("half a character in UTF-16", "text/plain", b"\xff\xfe" + ("p0900" + " x" * 99).encode(
            "utf-16-le") + b"\x00\xdc" + text.encode("utf-16-le"),
         "p0900" + " x" * 99 + "\ufffd" + text),
        ("header before meta", "text/html; charset=utf-8", b"<meta charset=gbk><p>" +
         text.encode(), text)]
    path = put("charset.warc", b"".join(
        one(body, url=f"https://a.org/{i}", content_type=kind)
        for i, (_, kind, body, _) in enumerate(cases)))
    found = {d["url"]: d["content"] for d in read(path)}
    for i, (name, _, _, wanted) in enumerate(cases):
        check_equal(f"charset: {name}", found.get(f"https://a.org/{i}"), wanted)
    for name, kind, body in (("UTF-8", "text/html; charset=utf-8", b"p0900 " + b"caf\xe9 " * 9),
                             ("gbk", "text/html; charset=gbk", b"p0900 \xff\xff\xff"),
                             ("UTF-16", "text/html", b"\xff\xfe" + b"\x00\xd8" * 50)):
        named(f"no {name}", one(body, content_type=kind), ["charset: more than 1 of 100"])
    wet = crawl.record("https://a.org/1", b"p0900 \xff\xfe\xff", "conversion", "text/plain")
    check_equal("a text that says nothing is latin1 at worst",
                [d["content"] for d in read(put("bad.warc.wet", wet))], ["p0900 ÿþÿ"])


def test_answers():
    cases = [
        ("chunks", crawl.chunked(CODE, 5), {"headers": ["Transfer-Encoding: chunked"]}),
        ("chunks undone", CODE, {"headers": ["Transfer-Encoding: chunked"]}),
        ("gzip", gzip.compress(CODE), {"headers": ["Content-Encoding: gzip"]}),
        ("gzip undone", CODE, {"headers": ["content-encoding:gzip"]}),
        ("zlib", zlib.compress(CODE), {"headers": ["Content-Encoding: deflate"]}),
        ("bare deflate", zlib.compress(CODE)[2:-4], {"headers": ["Content-Encoding: deflate"]}),
        ("gzip in chunks", crawl.chunked(gzip.compress(CODE), 7),
         {"headers": ["Transfer-Encoding: chunked", "Content-Encoding: x-gzip"]}),
        ("no type", CODE, {"content_type": ""}), ("xhtml", CODE,
                                                  {"content_type": "application/xhtml+xml"}),
        ("plain", b"p0900 code", {"content_type": "TEXT/PLAIN;charset=utf-8"})]
    path = put("answers.warc", b"".join(one(body, url=f"https://a.org/{i}", **more)
                                        for i, (_, body, more) in enumerate(cases)))
    found = {d["url"]: d["content"] for d in read(path)}
    for i, (name, _, _) in enumerate(cases):
        check_equal(f"answer: {name}", found.get(f"https://a.org/{i}"), "p0900 code")
    chunk = {"headers": ["Transfer-Encoding: chunked"]}
    for name, record, said in (
            ("404", one(CODE, status="404 Not Found"), "HTTP status is not 200"),
            ("a picture", one(CODE, content_type="image/png"), "no page of text"),
            ("brotli", one(b"\x8b\x05", headers=["Content-Encoding: br"]), "a compression"),
            ("garbage for chunks", one(b"zzzz\r\n" + CODE, **chunk), "HTTP chunk: no size"),
            ("a chunk too long", one(b"fff\r\n" + CODE, **chunk), "HTTP chunk: longer"),
            ("a wrong chunk", one(b"5\r\n" + CODE + b"\r\n0\r\n", **chunk), "size is wrong"),
            ("chunks cut off", one(b"11\r\n" + CODE + b"\r\n", **chunk), "HTTP chunk: no size"),
            ("broken gzip", one(gzip.compress(CODE)[:-9], headers=["Content-Encoding: gzip"]),
             "Content-Encoding: the body is damaged"),
            ("no status line", crawl.record("https://a.org", b"<html>" + CODE * 2), "no HTTP"),
            ("no end of the header", crawl.record("https://a.org", b"HTTP/1.1 200 OK\r\nA: b"),
             "no empty line"),
            ("empty", one(b""), "empty"), ("no words", one(b"<p> &nbsp; \0"), "empty"),
            ("dns", crawl.record("dns:a.org", b"1.2.3.4", "response", "text/dns"), "no answer"),
            ("inflates to 8 MB", one(gzip.compress(b"a" * (8 << 20) + b"aa"),
                                     headers=["Content-Encoding: gzip"]), "larger than 8 MB"),
            ("8 MB", one(b"a" * (8 << 20), content_type="text/plain"), "larger than 8 MB")):
        named(f"counted: {name}", record, [said])


def test_warc():
    good = one(CODE, url="https://b.org/1")
    both = ("https://b.org/1", "https://z.org/last")
    block = crawl.answer(CODE)
    for name, data, said, survivors in (
            ("nothing wrong", good, [], both),
            ("length too short", crawl.record("https://a.org", block, length=len(block) - 3) + good,
             ["Content-Length is wrong"], both),
            ("length too long", crawl.record("https://a.org", block, length=len(block) + 30) + good,
             ["Content-Length is wrong"], both),
            ("length far too long", crawl.record("https://a.org", block, length=10 ** 6) + good,
             ["cut off"], both),
            ("beyond all", crawl.record("https://a.org", block, length=10 ** 15) + good,
             ["larger than 8 MB"], both),
            ("no length", good.replace(b"Content-Length", b"X-Length") + good,
             ["no Content-Length"], both),
            ("no number", good.replace(b"Content-Length: ", b"Content-Length: -") + good,
             ["no Content-Length"], both),
            ("garbage before", b"garbage\r\nmore\r\n" + good, ["no record"], both),
            ("garbage between", good + b"\x00\xff garbage" * 50 + b"\r\n" + good, ["no record"],
             ("https://b.org/1",) + both),
            ("no line ends behind", good[:-4] + good, [], ("https://b.org/1",) + both),
            ("header without end", b"WARC/1.0\r\nA: b\r\n" + b"x" * 70000 + b"\r\n" + good,
             ["does not end"], both),
            ("lines that end in LF", crawl.record("https://b.org/1", block.replace(
                b"\r\n", b"\n")).replace(b"\r\n", b"\n"), [], both),
            ("other records", crawl.record("x:y", b"text", "metadata", "text/plain") +
             crawl.record("x:y", b"text", "revisit") + good, [], both)):
        named(f"WARC: {name}", data, said, survivors)
    path = put("cut.warc", good + good[:-30])
    check_equal("WARC: cut off at the end", wrong(path)[1:], (["https://b.org/1"], [
        f"{path}:2: WARC: a record that is cut off"]))
    path = put("cut2.warc", good + good[:60])
    check_equal("WARC: cut off in a header", wrong(path)[1:], (["https://b.org/1"], [
        f"{path}:2: WARC: a header that does not end"]))
    path = put("damaged.warc", good[3:] + good)
    check_equal("WARC by its name", wrong(path)[1], ["https://b.org/1"])
    bombs = b"WARC/1.0\r\nContent-Length: 8000000\r\n\r\n" * 30000
    code, found, lines = wrong(put("bombs.warc", bombs + good))
    check("records that claim each other end soon", code == 0 and lines, short((found, lines)))


def test_compressed():
    members = [gzip.compress(one(CODE, url=f"https://a.org/{i}")) for i in range(5)]
    broken = bytearray(members[2])
    broken[len(broken) // 2] ^= 0x55
    broken[len(broken) // 2 + 1] ^= 0xAA
    rest = [f"https://a.org/{i}" for i in (0, 1, 3, 4)]
    for name, parts, survivors in (
            ("a damaged member", [*members[:2], bytes(broken), *members[3:]], rest),
            ("a member cut off", [*members[:2], members[2][:50], *members[3:]], rest),
            ("garbage between", [*members[:2], b"garbage", *members[2:]], None),
            ("zeros between", [*members[:2], bytes(512), *members[2:]], None),
            ("the end cut off", [*members[:4], members[4][:40]], rest[:3])):
        code, found, lines = wrong(put("m.warc.gz", b"".join(parts)))
        if name == "the end cut off":
            survivors = [f"https://a.org/{i}" for i in range(4)]
        check_equal(f"gzip: {name}: the others survive", (code, found), (
            0, survivors or [f"https://a.org/{i}" for i in range(5)]))
        check(f"gzip: {name}: is named", bool(lines) == (name != "zeros between"), short(lines))
    lines_file = b"".join(gzip.compress(json.dumps({"url": f"https://a.org/{i}", "text":
                                                    "p0900"}).encode() + b"\n") for i in range(3))
    code, found, said = wrong(put("l.jsonl.gz", lines_file[:-12]))
    check("JSON Lines, gzip cut off", code == 0 and found[:2] == rest[:2] and len(said) == 1,
          short((found, said)))
    frames = [pack("zstd", one(CODE, url=f"https://a.org/{i}")) for i in range(4)]
    if None in frames:
        return skip("zstd", "no program zstd")
    bad = frames[1][:20] + b"\xff\xff\xff" + frames[1][23:]
    code, found, said = wrong(put("z.warc.zst", frames[0] + bad + frames[2] + frames[3][:30]))
    check("zstd: a damaged frame and one cut off", code == 0 and found == [
        "https://a.org/0", "https://a.org/2"] and said, short((found, said)))
    return None


def test_lines():
    path = put("bad.jsonl", b'{"url":"https://a.org/1","text":"p0900"}\n{"url":5,"text":"p0900"}\n'
               b'broken\n\n{"url":null,"content":"p0900"}\n{"url":"https://b.org","text":5}\n[]\n'
               b'{"url":"https://c.org","text":"p0900 \xff"}\n'
               b'{"url":"https://d.org","text":"p0900"}')
    code, found, said = run(path, "--model", MODEL, "-v")[0], read(path), wrong(path)[2]
    check_equal("good lines", (code, [d.get("url") for d in found]), (
        0, ["https://a.org/1", None, "https://d.org"]))
    check_equal("bad ones are named by number", [line.split(":")[1] for line in said],
                ["2", "3", "6", "7", "8"])
    stats = os.path.join(PLACE, "read.json")
    read(path, more=["--stats", stats])
    with open(stats, encoding="utf-8") as file:
        check_equal("and counted", json.load(file)["broken"]["files"], 5)
    code, found, err = run(path, "--seed", pages("s.jsonl", (None, "x"), (None, "y")), "-v",
                           "--iterations", 3)
    check("a broken seed is said", "seed: left out: 5 that" in run(
        pages("s.jsonl", (None, "x"), (None, "y")), "--seed", path, "--iterations", 1)[2])
    check_equal("once, in however many iterations", err.count("bad.jsonl:3"), 1)


def test_mutants():
    """Damage anywhere: never a crash, and the run goes on."""
    rng = random.Random(7)
    made = crawl.crawl(30)
    sources = [crawl.warc(made), crawl.warc(made, pack=False), crawl.wet(made), crawl.lines(made)]
    zst = pack("zstd", sources[1])
    sources += [zst] if zst else []
    files = []
    for i in range(60):
        data = bytearray(sources[i % len(sources)])
        if i % 3 == 0:
            data = data[:rng.randrange(len(data))]
        for _ in range(rng.randrange(1, 30)):
            at = rng.randrange(max(1, len(data)))
            data[at:at + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
        name = ["m.warc.gz", "m.warc", "m.warc.wet.gz", "m.jsonl", "m.warc.zst"][i % len(sources)]
        files.append(put(f"mutants/{i}{name}", bytes(data)))
    last = put("mutants/last.warc", one(CODE, url="https://z.org/last"))
    code, out, err = refine("recall", *files, last, "--model", MODEL, "--fasttext", FAKE, "-q",
                            "--threshold", 0, "-j", 2, program=STRICT)
    check("60 damaged files", code == 0 and b"https://z.org/last" in out, f"{code} {err[-300:]}")
    again = refine("recall", *files, last, "--model", MODEL, "--fasttext", FAKE, "-q",
                   "--threshold", 0, "-j", 1, program=STRICT)[1]
    check("the same from one thread", again == out)


if has_libraries():
    for test in (test_formats, test_html, test_charsets, test_answers, test_warc, test_compressed,
                 test_lines, test_mutants):
        test()
else:
    skip("reading", "refine was built without zlib or libxml2")
end()
