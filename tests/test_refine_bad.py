#!/usr/bin/env python3
"""Tests ./refine on bad source files: none ends it, every one is accounted for, none takes long for
its size, and the output is the same from any number of threads and after a kill.

What to know first: bad_sources.py has the files. How long they take is measured at two lengths, in
time of the processor, so that a busy machine does not matter: test_refine_bad.py 4000000 does so
with greater lengths than those of every day."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

from bad_sources import CODE, FILES, HOSTILE, LARGE, LIMIT, MILLION, hostile, plant
from check import ROOT, TOOL, check, check_equal, end, skip, write_file
from refine_case import PLACE, REFINE, STRICT, fresh, lines, refine

BYTES = int(sys.argv[1]) if len(sys.argv) > 1 else 100000 if TOOL else 250000
SECONDS = 20 if TOOL else 1  # that a megabyte may take
LEAST = 0.2 if TOOL else 0.02  # seconds that can be told from those of starting


def said(err):
    """What is on stderr, but for programs that are not installed."""
    return "".join(line for line in err.splitlines(True) if not line.startswith("note: "))


def check_lines(name, out):
    """Lines of JSON in UTF-8, each an object with a content."""
    try:
        records = [json.loads(line) for line in out.decode().split("\n")[:-1]]
        ok = all(isinstance(r["content"], str) for r in records) and out[-1:] in (b"\n", b"")
    except (ValueError, KeyError) as error:
        return check(f"{name}: lines of JSON", False, error) and []
    check(f"{name}: lines of JSON", ok)
    return records


def balance(name, path, n_out):
    """In = out + dropped by reason, in each stage and from stage to stage, files and bytes."""
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    stages = found["stages"]
    for i, s in enumerate(stages):
        gone = s["dropped"].values()
        files = [s["out"]["files"] + sum(d["files"] for d in gone)]
        files += [sum(x["files"] for x in s["languages_in"].values())]
        check_equal(f"{name}: {s['stage']}: files in = kept + dropped", files,
                    [s["in"]["files"]] * 2)
        if s["stage"] != "read" and not s["changed"]["files"]:
            check_equal(f"{name}: {s['stage']}: bytes too", s["in"]["bytes"],
                        s["out"]["bytes"] + sum(d["bytes"] for d in gone))
        if i:
            check_equal(f"{name}: {s['stage']} gets what was kept", s["in"], stages[i - 1]["out"])
    check_equal(f"{name}: what was kept was written", n_out, stages[-1]["out"]["files"])
    return found


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def killed(words, target, seconds):
    """Is it killed so many seconds after it began to write? It may have ended before, and then its
    output is there."""
    child = subprocess.Popen([REFINE, *words], cwd=ROOT, stderr=subprocess.DEVNULL)
    place = os.path.dirname(target)
    while child.poll() is None and not os.listdir(place):
        time.sleep(0.005)
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    return child.wait() == -signal.SIGKILL


def clear(place):
    """Removes what this test or the last has left; plant() has closed a directory."""
    closed = os.path.join(place, "tree", "closed")
    if os.path.isdir(closed):
        os.chmod(closed, 0o700)
    shutil.rmtree(place, ignore_errors=True)


def test_tree():
    clear(os.path.join(PLACE, "bad"))
    place = fresh("bad")
    tree, out, stats = (os.path.join(place, name) for name in ("tree", "out.jsonl", "stats.json"))
    fates = plant(tree)
    code, listed, err = refine("read", tree, "-v", "--stats", stats, program=STRICT)
    check_equal("read: exit code", code, 0)
    records = check_lines("read", listed)
    found = balance("read", stats, len(records))["stages"][0]
    check_equal("read: every file has its fate", (
        {"": found["out"]["files"], **{k: v["files"] for k, v in found["dropped"].items()}},
        found["in"]["files"]), (dict(fates), sum(fates.values())))
    named = sum(": dropped: " in line for line in err.splitlines())
    check_equal("read: what is dropped is named, on a line each", (
        named, len(err.splitlines())), (sum(fates.values()) - fates[""], named + 3))
    check("read: as it is", {r["path"]: r["content"] for r in records}["cr.c"] == FILES["cr.c"][1])

    begun = time.monotonic()
    code, whole, err = refine("all", tree, "-q", "-j", 2, "--stats", stats)
    seconds = time.monotonic() - begun
    check_equal("all: exit code, stderr", (code, said(err)), (0, ""))
    balance("all", stats, len(check_lines("all", whole)))
    for threads in (1, 8):
        again = refine("all", tree, "-q", "-j", threads)
        check(f"all: the same from {threads} threads", again[1] == whole, (again[0], again[2]))
    words = ["all", tree, "-q", "-j", "2", "-o", os.path.join(place, "killed", "out.jsonl")]
    os.mkdir(os.path.dirname(words[-1]))
    kills = left = 0
    for part in (0.6, 0.2, 0.05, 0.01, 0):  # of a time that a busy machine may have made long
        if killed(words, words[-1], seconds * part):
            kills += 1
            left += os.path.exists(words[-1])
        else:
            os.remove(words[-1])
        if kills == 2:
            break
    check_equal("a kill in the middle leaves no output", (kills > 0, left), (True, 0))
    code, _, err = refine(*words)
    check_equal("rerun: exit code, stderr, what is there", (
        code, said(err), os.listdir(os.path.dirname(words[-1]))), (0, "", ["out.jsonl"]))
    check("rerun: the same output", read_bytes(words[-1]) == whole)
    clear(place)


def processor_seconds(case, n):
    """Of `all` with one thread over the languages of that case, the bytes of its files, and what
    went wrong."""
    tree = fresh(os.path.join("bad-time", f"{case}-{n}"))
    for ext in HOSTILE[case][0].split():
        write_file(os.path.join(tree, f"a.{ext}"), hostile(case, ext, n))
    size = sum(os.path.getsize(os.path.join(tree, name)) for name in os.listdir(tree))
    child = subprocess.Popen([REFINE, "all", tree, "-j", "1", "-q", "-o", tree + ".jsonl"],
                             cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = child.stdout.read().decode()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    wrong = f"exit code {child.returncode}, {said(text)}" if child.returncode or said(text) else ""
    return used.ru_utime + used.ru_stime, size, wrong


def growth(case, n):
    """Seconds of 1 MB, how many times as long 4n bytes take as n, start-up aside, and what went
    wrong."""
    idle = processor_seconds(case, 1)[0]
    small = max(processor_seconds(case, n)[0] - idle, LEAST)
    large, size, wrong = processor_seconds(case, 4 * n)
    return (large - idle) / size * 1e6, (large - idle) / small, wrong


def test_time():
    """At most 1 s for 1 MB, and four times the text in not much more than four times the time."""
    def measure(case):
        tries = []
        while len(tries) < 3 and (not tries or tries[-1][0] > SECONDS or tries[-1][1] > 8):
            tries.append(growth(case, BYTES // 4))
        return tries[-1]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(measure, range(len(HOSTILE))))
    names = [f"{exts}: {ascii(what)}" for exts, what, *_ in HOSTILE]
    for name, (per_mb, ratio, wrong) in zip(names, found):
        check(f"time is linear: {name}", not wrong and per_mb <= SECONDS and ratio <= 8,
              f"{per_mb:.2f} s/MB, four times the text in {ratio:.1f} times the time; {wrong}")
    for what, i in (("s/MB", 0), ("times the time for four times the text", 1)):
        worst = max(range(len(found)), key=lambda case, i=i: found[case][i])
        print(f"# at most {found[worst][i]:.2f} {what} ({names[worst]})")


def test_moving():
    """Files that grow, shrink, vanish and become something else while they are read."""
    place = fresh("bad-moving")
    tree, stats = os.path.join(place, "tree"), os.path.join(place, "stats.json")
    for i in range(40):
        write_file(os.path.join(tree, f"still{i}.c"), f"int still{i};\n" * 2000)
    still = refine("read", tree, "-q")[1]
    held = os.path.join(place, "fifo.c")
    os.mkfifo(held)
    writer = os.open(held, os.O_RDWR)  # nothing is ever written: a reader would wait
    over, rounds = threading.Event(), []

    def become(path, kind, rng):
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        elif os.path.lexists(path):
            os.unlink(path)
        if kind == "directory":
            os.mkdir(path)
        elif kind == "fifo":
            os.link(held, path)
        elif kind == "file":
            write_file(path, "a" * rng.randrange(100000))

    def disturb():
        rng = random.Random(5)
        while not over.is_set():
            with open(os.path.join(tree, "grows.c"), "ab") as file:
                file.write(b"a\n" * rng.randrange(9000))
                if file.tell() > LIMIT * 2:
                    file.truncate(0)
            os.truncate(write_file(os.path.join(tree, "shrinks.c"), "b\n" * 90000),
                        rng.randrange(180000))
            for i in range(6):
                become(os.path.join(tree, f"swap{i}.c"),
                       rng.choice(("file", "file", "directory", "fifo", "")), rng)
            rounds.append(1)
    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    runs = [refine("read", tree, "-q", "--stats", stats, program=program)
            for program in [REFINE] * 20 + [STRICT] * 3]
    check("moving: files changed all the while", thread.is_alive() and len(rounds) > len(runs),
          len(rounds))
    over.set()
    thread.join()
    check_equal("moving: exit codes, stderr", {(code, err) for code, _, err in runs}, {(0, "")})
    check("moving: what stands still is as it was", all(
        still == b"".join(line for line in out.splitlines(True) if b'"path":"still' in line)
        for _, out, _ in runs))
    balance("moving", stats, len(check_lines("moving", runs[-1][1])))
    code, out, err = refine("read", held, "-v", program=STRICT)
    check("a pipe by name is no file", (code, out) == (0, b"") and
          "dropped: not a regular file" in err, (code, err))
    os.close(writer)


def test_archives():
    """Archives that are damaged, or whose entries want to be elsewhere."""
    place = fresh("bad-archives")

    def packed(name, mode):
        with tarfile.open(os.path.join(place, name), mode) as archive:
            for path in ("../../up.c", "/root.c", "a\nb.c", "\udcff.c", "x/" * 2000 + "far.c"):
                info = tarfile.TarInfo(path)
                info.size, info.mtime = 7, 2 ** 33
                archive.addfile(info, io.BytesIO(b"int a;\n"))
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
                info = tarfile.TarInfo("special.c")
                info.type, info.linkname = kind, "/etc/passwd"
                archive.addfile(info)
            info = tarfile.TarInfo("bomb.c")
            info.size = 30 * MILLION
            archive.addfile(info, io.BytesIO(bytes(info.size)))
        return read_bytes(os.path.join(place, name))
    tar, gzip = packed("plain.tar", "w"), packed("good.tar.gz", "w:gz")
    code, _, err = refine("read", os.path.join(place, "good.tar.gz"), "-q")
    if code and "without libarchive" in err:
        return skip("archives", "refine was built without libarchive")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(20):
            archive.writestr(f"{i}.c", CODE * i)
    zipped = zipped.getvalue()
    bad = {"empty.tar": b"", "text.tar": b"nonsense", "zeros.tar": bytes(10240),
           "sum.tar": b"x" + tar[1:], "cut.tar": tar[:2000], "cut.tar.gz": gzip[:len(gzip) // 2],
           "bits.tar.gz": gzip[:50] + b"\xff" * 20 + gzip[70:], "head.tgz": gzip[:9],
           "cut.zip": zipped[:len(zipped) // 2], "end.zip": zipped[-22:], "text.zip": b"PK" * 99,
           "bits.zip": zipped[:99] + b"\xff" * 40 + zipped[139:], "zero.tar.xz": bytes(99),
           "magic.tar.zst": b"\x28\xb5\x2f\xfd" + bytes(99), "magic.tar.bz2": b"BZh9" + b"1" * 99}
    for name, content in bad.items():
        write_file(os.path.join(place, name), content)
    stats = os.path.join(place, "stats.json")
    for name in ["plain.tar", "good.tar.gz", *bad]:
        code, out, err = refine("read", os.path.join(place, name), "-q", "--stats", stats,
                                program=STRICT)
        check_equal(f"{name}: exit code, stderr", (code, err), (0, ""))
        found = balance(name, stats, len(check_lines(name, out)))
        if name in ("plain.tar", "good.tar.gz"):
            check_equal(f"{name}: what is kept and dropped", (
                out.count(b"\n"), {k: v["files"] for k, v in found["stages"][0]["dropped"].items()},
                found["broken"]["files"]), (5, {LARGE: 1}, 0))


def test_lines():
    """Lines whose members lie or are many, and statistics of names from outside."""
    place = fresh("bad-lines")
    stats = os.path.join(place, "stats.json")
    names = ["x" * 300 + "y", "x" * 300 + "z", "p\0a", "p\0b", "\u00e9" * 200, "\n\x1b[0m", '"\\']
    records = [{"content": CODE, "language": name, "path": "a" * 9999} for name in names]
    records += [{"content": CODE, "language": "C", "size": 2 ** 63 - 1, "commit_time": -2 ** 62},
                {"content": CODE, "language": "C", **{f"k{i}": i for i in range(50000)}},
                {"content": CODE, "a": json.loads("[" * 60 + "]" * 60)},
                {"content": "\ud83d\ude00\u2028\0" * 999, "language": "C"}]
    broken = ["[" * MILLION, '{"content":' * 99999, '{"content": "' + "\\u0000" * 99999, "\ufeff{}",
              '{"content": "", "\\u4e2d": 1, "\\u4e2d": 2}', "\r", "\x85", "1" * MILLION,
              '"' * 99999]
    broken += [f'{{"{"k" * 78}{end}": 1, "{"k" * 78}{end}": 2}}' for end in "\u4e2d\u5143\u8a9e"]
    path = lines(os.path.join(place, "a.jsonl"), *records, *broken, *[" \t"] * 50000)
    for command in ("sample", "transform", "filter", "dedup"):
        code, out, err = refine(command, path, "-q", "--stats", stats, program=STRICT)
        check_equal(f"{command}: exit code, stderr", (code, said(err)), (0, ""))
        found = balance(command, stats, len(check_lines(command, out)))
        check_equal(f"{command}: lines and broken lines", (
            found["stages"][0]["in"]["files"], found["broken"]["files"],
            sum(x["files"] for x in found["broken_why"].values())),
            (len(records), len(broken) - 1, len(broken) - 1))
        check_equal(f"{command}: its statistics can be read", refine("stats", "--run", stats)[0], 0)


if os.path.exists(REFINE):
    for test in (test_tree, test_archives, test_lines, test_moving, test_time):
        begun = time.monotonic()
        test()
        print(f"# {test.__name__}: {time.monotonic() - begun:.1f} s")
    count = len(FILES) + sum(len(exts.split()) for exts, *_ in HOSTILE) + 10
    print(f"# {count} bad files, {sum(os.times()[:4]):.1f} s of the processor")
else:
    skip("bad files", "refine is not built")
end()
