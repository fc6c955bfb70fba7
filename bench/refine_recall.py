#!/usr/bin/env python3
"""refine_recall.py: OpenCoder's recall of web pages about code (arXiv 2411.04905, section 2.1.2) on
a made-up crawl whose labels are known (tests/crawl.py): precision and recall after each iteration.

    make refine && python bench/refine_recall.py [--pages N] [--seed-pages N]

The crawl is written as gzip WARC, WET and JSON Lines, a third each; the seed has pages of two of
the four kinds that the crawl has; patterns stand for what people find in domains that are
code-related. Wants the program fasttext (the Debian package of that name)."""

import argparse
import datetime
import json
import os
import re
import resource
import shutil
import sys
import tempfile

from common import ROOT, finish, processor

sys.path.insert(0, os.path.join(ROOT, "tests"))
import crawl  # pylint: disable=wrong-import-position

SETTINGS = [("as it comes, with patterns", []),
            ("without patterns", None),
            ("--threshold 0.8", ["--threshold", 0.8]),
            ("--domain-threshold 0.25", ["--domain-threshold", 0.25]),
            ("--word-ngrams 1", ["--word-ngrams", 1])]


def processor_seconds():
    """Of all programs that have ended, and those that they had started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write_crawl(place, pages):
    third = len(pages) // 3
    files = {"a.warc.gz": crawl.warc(pages[:third]),
             "b.warc.wet.gz": crawl.wet(pages[third:2 * third]),
             "c.jsonl": crawl.lines(pages[2 * third:])}
    for name, data in files.items():
        with open(os.path.join(place, name), "wb") as file:
            file.write(data)
    return [os.path.join(place, name) for name in files]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--pages", type=int, default=8000)
    parser.add_argument("--seed-pages", type=int, default=200)
    options = parser.parse_args()
    if not shutil.which("fasttext"):
        sys.exit("error: fasttext: not installed, expected the program; the Debian package "
                 "fasttext has it")
    pages = crawl.crawl(options.pages)
    with tempfile.TemporaryDirectory() as place:
        files = write_crawl(place, pages)
        seed, patterns = os.path.join(place, "seed.jsonl"), os.path.join(place, "patterns.txt")
        with open(seed, "w", encoding="utf-8") as file:
            for page in crawl.seed_pages(options.seed_pages):
                print(json.dumps(page), file=file)
        with open(patterns, "w", encoding="utf-8") as file:
            file.write("%qanda%.com/questions/%\n")
        size = sum(os.path.getsize(path) for path in files)
        text = sum(len(crawl.text_of(page).encode()) for page in pages)
        print(f"bench/refine_recall.py, {datetime.date.today()}, {processor()}\n"
              f"{len(pages)} pages, {sum(page['code'] for page in pages)} about code, "
              f"{size / 1e6:.1f} MB, {text / 1e6:.1f} MB of text; seed of "
              f"{options.seed_pages}")
        print(f"{'setting':28}" + "".join(f"  {'prec.' + str(i):>7} {'recall' + str(i):>7}"
                                          for i in (1, 2, 3)) + f" {'cpu s':>7} {'MB mem':>7}")
        for name, more in SETTINGS:
            out = os.path.join(place, "out.jsonl")
            listed = ["--patterns", patterns] if more is not None else []
            before = processor_seconds()
            done = finish("./refine", "recall", *files, "--seed", seed, *listed, *(more or []),
                          "-o", out)
            with open(out, encoding="utf-8") as file:
                found = [json.loads(line) for line in file]
            line = f"{name:28}"
            for last in (1, 2, 3):
                line += "  {:7.4f} {:7.4f}".format(*crawl.quality(
                    {d["url"] for d in found if d["iteration"] <= last}, pages))
            line += f" {processor_seconds() - before:7.1f} {done.memory / 1e6:7.0f}"
            print(line, flush=True)
            if more == []:
                table = re.sub(r"\r.*\x1b\[K", "", done.stderr)
    print("\nits table of iterations:\n" + table, end="")


if __name__ == "__main__":
    main()
