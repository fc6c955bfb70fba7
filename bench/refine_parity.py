#!/usr/bin/env python3
"""refine_parity.py: ./refine filter beside the released filter of OpenCoder, file by file.

    python bench/refine_parity.py CHECKOUT PATH... [--limit N] [--fix] [--show N]

CHECKOUT is a clone of OpenCoder-llm/opc_data_filtering; run this with a Python that has what its
requirements.txt asks for. PATHs are files and directories; at most N files of each language are
taken, spread over all of them. Both filters get the same text, language and type, natural language
"en", and rules that toss a coin always drop (theirs) or are compared by their signal (ours).

Printed: signals that differ by more than 1e-6, decisions that differ, and the time of both. The
names of files that differ go to stderr with --show."""

import argparse
import collections
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENDINGS = set("""py c h cpp cc cxx hpp cs go html htm java js sh bash sql json yml yaml xml css ts
php rb pl lua rs md txt rst cmake toml ini scss kt swift hs ml vim el tex m4 awk""".split())
RANDOM_RULES = ("no_logic", "cate_testfile")


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout")
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--fix", action="store_true")
    parser.add_argument("--save", help="a file that keeps the released filter's figures")
    return parser.parse_args()


def find(paths, limit):
    """Paths of text files, at most `limit` of each ending, spread evenly over what there is."""
    by_ending = collections.defaultdict(list)
    for path in paths:
        for where, _, names in os.walk(path) if os.path.isdir(path) else [("", [], [path])]:
            for name in names:
                ending = name.rsplit(".", 1)[-1].lower()
                full = os.path.join(where, name)
                if ending in ENDINGS and os.path.isfile(full) and os.path.getsize(full) < 200_000:
                    by_ending[ending].append(full)
    for ending in sorted(by_ending):
        found = sorted(set(by_ending[ending]))
        step = max(1, len(found) / limit)
        yield from (found[int(i * step)] for i in range(min(limit, len(found))))


def read(path):
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except (UnicodeDecodeError, OSError):
        return None


def released(documents):
    """Adds the signals and hits of the released filter; returns its seconds."""
    import random
    import re
    import nltk
    from pipeline.compute_filtering import CodeFilter
    from pipeline.compute_quality_signals import ComputeCodeQualitySignal
    random.random = lambda: 1.0
    # The released filter was made with an nltk (3.9) whose pattern is one of the module re; newer
    # ones take the module regex, to which marks that combine with a letter are letters.
    nltk.wordpunct_tokenize = re.compile(r"\w+|[^\w\s]+").findall
    compute, decide = ComputeCodeQualitySignal(), CodeFilter()
    start = time.perf_counter()
    for d in documents:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            answer = json.loads(compute.evaluate(
                text=d["content"], filename=os.path.splitext(os.path.basename(d["path"]))[0],
                lang="en", ext=d["ext"], file_size_in_byte=d["size"], program_lang=d["language"],
                doc_type=d["type"]))
            signals = answer.get("quality_signal", "{}")
            verdict = json.loads(decide.evaluate(d["type"], "en", d["language"], signals))
        d["theirs"] = json.loads(signals)
        d["hits"] = {k for k, v in json.loads(verdict["hit_map"]).items() if v}
        d["kept"] = verdict["effective"] == "1"
        d["failed"] = bool(answer.get("err_msg"))
    return time.perf_counter() - start


def ours(documents, fix):
    """Adds our signals and hits; returns the seconds of one thread: all, and without parsers."""
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "in.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            for d in documents:
                keep = ("path", "ext", "language", "type", "size", "content")
                file.write(json.dumps({k: d[k] for k in keep}, ensure_ascii=False) + "\n")
        command = [os.path.join(ROOT, "refine"), "filter", "-q", "-j", "1", "--lang", "en"]
        command += ["--fix"] * fix
        start = time.perf_counter()
        out = subprocess.run([*command, "--all", "--signals", path], capture_output=True,
                             check=True)
        full = time.perf_counter() - start
        start = time.perf_counter()
        subprocess.run([*command, "--no-parse", path], stdout=subprocess.DEVNULL, check=True)
        rules = time.perf_counter() - start
    for d, line in zip(documents, out.stdout.split(b"\n")): # in the order of the input
        d["answer"] = json.loads(line)
        assert d["answer"]["path"] == d["path"]
    return full, rules


def main():
    options = arguments()
    sys.path.insert(0, options.checkout)
    from utils.preprocessing import get_doc_type, get_program_lang
    documents = []
    for path in find(options.paths, options.limit):
        text = read(path)
        name, ending = os.path.splitext(os.path.basename(path))
        language = get_program_lang(name, ending[1:])
        kind = get_doc_type(language)
        if text is not None and kind in ("code", "data", "text"):
            documents.append(dict(path=path, ext=ending[1:], language=language, type=kind,
                                  size=len(text.encode()), content=text))
    n_bytes = sum(d["size"] for d in documents)
    print(f"{len(documents)} files, {n_bytes / 1e6:.1f} MB")
    if options.save and os.path.exists(options.save):
        with open(options.save, encoding="utf-8") as file:
            saved = {k: tuple(v) for k, v in json.load(file).items()}
        documents = [d for d in documents if d["path"] in saved]
        for d in documents:
            d["theirs"], hits, d["kept"], d["failed"] = saved[d["path"]]
            d["hits"] = set(hits)
        seconds = saved[""][0]
    else:
        seconds = released(documents)
        if options.save:
            rows = {d["path"]: [d["theirs"], sorted(d["hits"]), d["kept"], d["failed"]]
                    for d in documents}
            rows[""] = [seconds]
            with open(options.save, "w", encoding="utf-8") as file:
                json.dump(rows, file)
    full, rules = ours(documents, options.fix)
    report(documents, options.show)
    print(f"\nreleased filter {seconds:.1f} s = {n_bytes / 1e6 / seconds:.3f} MB/s")
    print(f"refine filter, 1 thread, no parsers {rules:.2f} s = {n_bytes / 1e6 / rules:.1f} MB/s, "
          f"{seconds / rules:.0f} times as fast")
    print(f"refine filter --signals, all parsed {full:.2f} s = {n_bytes / 1e6 / full:.1f} MB/s, "
          f"{seconds / full:.0f} times as fast")


def report(documents, show):
    compared, differ = collections.Counter(), collections.Counter()
    where = collections.defaultdict(list)
    by_language = collections.defaultdict(lambda: [0, 0])
    for d in documents:
        mine, theirs = d["answer"]["quality_signal"], d["theirs"]
        for name, value in theirs.items():
            compared[name] += 1
            got = mine.get(name)
            same = got is None if value is None else (
                got is not None and abs(float(got) - float(value)) <= 1e-6)
            if not same:
                differ[name] += 1
                where[name].append((d["path"], value, got))
        row = by_language[d["language"] if d["type"] != "text" else "text"]
        my_hits = set(d["answer"].get("hits", ()))
        toss = {h for h in d["hits"] if h.endswith(RANDOM_RULES)}
        row[0] += 1
        row[1] += bool(my_hits | toss) == bool(d["hits"])
        if bool(my_hits | toss) != bool(d["hits"]):
            where["decision"].append((d["path"], sorted(d["hits"]), sorted(my_hits)))
    print(f"{sum(d['failed'] for d in documents)} files on which the released filter failed or "
          "gave up somewhere")
    print(f"\n{'signal':52} {'files':>6} {'differ':>6}")
    for name in sorted(compared):
        if differ[name]:
            print(f"{name:52} {compared[name]:6} {differ[name]:6}")
    total, same = sum(compared.values()), sum(compared.values()) - sum(differ.values())
    print(f"{len(compared)} signals, {total} values, {same} equal within 1e-6 "
          f"({100 * same / total:.2f} %)")
    print(f"\n{'language':16} {'files':>6} {'same':>6}")
    for name, (n, equal) in sorted(by_language.items(), key=lambda x: -x[1][0]):
        print(f"{name:16} {n:6} {equal:6}")
    n, equal = (sum(row[i] for row in by_language.values()) for i in (0, 1))
    print(f"decisions: {equal} of {n} equal ({100 * equal / n:.2f} %)")
    for name in sorted(where):
        for path, theirs, mine in where[name][:show]:
            print(f"{name}\t{theirs}\t{mine}\t{path}", file=sys.stderr)


if __name__ == "__main__":
    main()
