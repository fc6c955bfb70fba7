#!/usr/bin/env python3
"""refine_dedup.py: OpenCoder's ablation of deduplication levels (arXiv 2411.04905, section 6.1 and
its tables of rows and tokens) at a small scale.

    make all refine && python bench/refine_dedup.py SOURCES... [--language Python] [--train STEPS]

Every directory below SOURCES is a repository. As on GitHub, most of what is there are forks: each
repository gets --forks copies with fewer stars, in which a few files are changed a little, and some
are missing. Then the levels of the paper: file, repository, chunk, file then chunk, repository then
chunk; exact and near duplicates each. With --train, a tiny model is trained on what each level has
kept, the same number of updates from the same start, and its loss measured on files of
repositories that nothing of which was in the training set, one of each group of duplicates, a
tenth as many as were trained on."""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile

from common import ROOT

LEVELS = [("none",), ("file",), ("repository",), ("chunk",), ("file", "chunk"),
          ("repository", "chunk")]


def run(program, *words, out=None):
    command = [os.path.join(ROOT, program), *map(str, words)]
    with open(out or os.devnull, "wb") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)}: {done.stderr.decode(errors='replace')[-500:]}")
    return done.stderr.decode(errors="replace")


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_lines(path, records):
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            print(json.dumps(record), file=file)


def changed(rng, text):
    """A small edit: one line goes, another one comes twice."""
    lines = text.split("\n")
    lines.pop(rng.randrange(len(lines)))
    if lines:
        lines.insert(rng.randrange(len(lines)), lines[rng.randrange(len(lines))])
    return "\n".join(lines)


def forked(records, forks, rng):
    repos = {}
    for record in records:
        repos.setdefault(record["repo"], []).append(record)
    everything = []
    for name in sorted(repos):
        everything += [{**record, "stars": 100} for record in repos[name]]
        for copy in range(forks):
            for record in repos[name]:
                fate = rng.random()
                if fate < 0.03:
                    continue
                content = changed(rng, record["content"]) if fate > 0.95 else record["content"]
                everything.append({**record, "repo": f"{name}-fork{copy}", "content": content,
                                   "stars": copy, "size": len(content.encode())})
    rng.shuffle(everything)
    return everything


def total(path, level):
    """Rows, which are files, repositories or chunks of 16 KiB, and bytes."""
    records = read_lines(path)
    size = sum(len(record["content"].encode()) for record in records)
    if level == "repository":
        return len({record["repo"] for record in records}), size
    if level == "chunk":
        return sum(-(-len(record["content"].encode()) // 16384) for record in records), size
    return len(records), size


def train(place, name, kept, vocab, validation, steps):
    shard, model = os.path.join(place, name + ".tok"), os.path.join(place, name + ".bin")
    run("tokenizer", "pack", kept, "-o", shard, "--tokenizer", vocab)
    said = run("train", "pretrain", shard, "--shape", "tiny", "--tokenizer", vocab, "-o", model,
               "--steps", steps, "--seq-len", 256, "--batch", 16, "--micro-batch", 4, "--lr", 1e-3,
               "--val", validation, "--save-every", 0)
    losses = re.findall(r"val ([\d.]+), ([\d.]+) bits a byte", said)
    return float(losses[-1][1]) if losses else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("sources", nargs="+", metavar="SOURCES")
    parser.add_argument("--language", default="Python")
    parser.add_argument("--forks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=4000, help="at most, before forking")
    parser.add_argument("--train", type=int, default=0, metavar="STEPS")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        everything = os.path.join(place, "read.jsonl")
        run("refine", "read", "--repo-depth", 1, *options.sources, out=everything)
        records = [r for r in read_lines(everything) if r["language"] == options.language and
                   200 < len(r["content"]) < 200000]
        rng.shuffle(records)
        names = sorted({record["repo"] for record in records})
        held = set(rng.sample(names, max(1, len(names) // 10)))
        inside = [r for r in records if r["repo"] not in held][:options.files]
        corpus = os.path.join(place, "none.jsonl")
        write_lines(corpus, forked(inside, options.forks, rng))
        vocab = validation = None
        if options.train:
            outside = os.path.join(place, "held.jsonl")
            known = {r["content"] for r in inside}
            unknown = [r for r in records if r["repo"] in held and r["content"] not in known]
            write_lines(outside, unknown[:options.files // 10])
            validation, vocab = os.path.join(place, "held.tok"), os.path.join(place, "v.gguf")
            unique = os.path.join(place, "unique.jsonl")
            run("refine", "dedup", outside, out=unique)
            texts = os.path.join(place, "texts.jsonl")
            write_lines(texts, inside)
            run("tokenizer", "train", texts, "-o", vocab, "--vocab", 4096)
            run("tokenizer", "pack", unique, "-o", validation, "--tokenizer", vocab)
        print(f"{len(inside)} files of {options.language} in {len(names) - len(held)} "
              f"repositories, {options.forks} forks of each")
        print(f"{'level':22} {'total rows':>10} {'kept rows':>10} {'MB in':>8} {'MB kept':>8} "
              f"{'% kept':>7}" + (f" {'bits/byte':>10}" if options.train else ""))
        for levels in LEVELS:
            kept = corpus
            for level in levels:
                target = os.path.join(place, "-".join(levels) + "." + level)
                target += ".jsonl"
                if level != "none":
                    run("refine", "dedup", "--level", level, kept, "-o", target)
                    kept = target
            rows_in, bytes_in = total(corpus, levels[-1])
            rows, size = total(kept, levels[-1])
            line = f"{' + '.join(levels):22} {rows_in:10} {rows:10} {bytes_in / 1e6:8.1f} " \
                   f"{size / 1e6:8.1f} {100 * size / bytes_in:7.1f}"
            if options.train:
                bits = train(place, "-".join(levels), kept, vocab, validation, options.train)
                line += f" {bits:10.4f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
