"""stages.py: from what was collected to a base model: refine, vocabulary, pack, pretrain."""

import glob
import json
import os
import re
import zlib

from collect import ONE_IN, left_out
from kitchen import CookError
from plan import ROOT

LANGUAGE = {"c": "C", "python": "Python", "javascript": "JavaScript", "shell": "Shell",
            "c++": "C++", "java": "Java", "go": "Go", "rust": "Rust", "typescript": "TypeScript"}
# Held-out repositories win against their duplicates elsewhere, as those with more stars do.
STARS = 1000000


def threads(kitchen):
    number = kitchen.plan.get("plan", "threads")
    return ["-j", number] if number else []


def whole(path):
    return os.path.join(ROOT, path)


# --------------------------------------------------------------------------------------- refine
def refined(source, leave_out):
    """Yields (line, record) of a file of documents, but for directories that are left out."""
    with open(whole(source), encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            if not left_out(record["path"], leave_out):
                yield line, record


def number_of(record):
    return zlib.crc32(f"{record['repo']}/{record['path']}".encode())


def split(source, train, held, names, leave_out):
    """Parts the refined files and returns what was counted. Held out are the repositories of these
    names, or else one file of ONE_IN, by a hash of its path. Their text is written a second time
    in the form of a benchmark, for `refine decontaminate`."""
    numbers = [] if names else sorted(number_of(record) for _, record in refined(source, leave_out))
    last = numbers[(len(numbers) - 1) // ONE_IN] if numbers else -1
    count = {"train": [0, 0], "held-out": [0, 0]}
    with open(whole(train), "w", encoding="utf-8") as to_train, \
            open(whole(held), "w", encoding="utf-8") as to_held, \
            open(whole(tasks_of(held)), "w", encoding="utf-8") as tasks:
        for line, record in refined(source, leave_out):
            out = record["repo"] in names if names else number_of(record) <= last
            (to_held if out else to_train).write(line)
            if out:
                tasks.write(json.dumps({"prompt": record["content"]}) + "\n")
            at = count["held-out" if out else "train"]
            at[0] += 1
            at[1] += len(record["content"].encode())
    for part, (files, _) in count.items():
        if not files:
            raise CookError(f"refine: no {part} files are left, expected some; see the funnel in "
                            f"{os.path.dirname(source)}/stats.json, and [refine] languages")
    return {part: {"files": files, "bytes": n} for part, (files, n) in count.items()}


def tasks_of(held):
    return os.path.splitext(held)[0] + "-tasks.jsonl"


def refine(kitchen):
    plan = kitchen.plan
    corpus = plan.get("collect", "corpus")
    held = plan.words("collect", "held-out")
    meta, clean, stats = kitchen.here("meta.jsonl"), kitchen.here("clean.jsonl"), \
        kitchen.here("stats.json")
    words = ["--repo-depth", 1, "--meta", meta]
    languages = [LANGUAGE.get(name.lower(), name) for name in plan.words("refine", "languages")]
    if languages:
        words += ["--none", "--other", 0]
    for name in languages:
        words += ["--ratio", f"{name}=1"]
    for path in plan.words("refine", "against"):
        words += ["--against", path]
    kitchen.do(f"{meta}: held-out repositories have {STARS} stars: of duplicates, theirs stays",
               write_meta, meta, held)
    kitchen.run("./refine", "all", corpus or kitchen.path("collect", "raw"), *words,
                *plan.arguments("refine"), *threads(kitchen), "--stats", stats, "-o", clean)
    train, held_out = kitchen.here("train.jsonl"), kitchen.here("held-out.jsonl")
    limit = plan.number("refine", "held-out-words", 32)
    parted = kitchen.here("parted.jsonl") if limit else train
    counted = kitchen.do(f"{clean} to {parted} and {held_out}", split, clean, parted, held_out,
                         set(held), set(plan.words("collect", "leave-out")))
    if limit:
        kitchen.run("./refine", "decontaminate", parted, "--against",
                    tasks_of(held_out), "--entry", "none", "--words", limit,
                    *threads(kitchen), "--stats", kitchen.here("shared.json"), "-o", train)
    if kitchen.dry:
        return {}
    kitchen.run("./refine", "stats", "--run", stats, "--svg", kitchen.here("funnel.svg"),
                out=kitchen.here("funnel.txt"))
    for name in (clean, parted):
        if name != train:
            os.remove(whole(name))
    return {**counted, "after decontamination": count_lines(train)}


def write_meta(path, held):
    with open(whole(path), "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"repo": name, "stars": STARS}) + "\n" for name in held)


def count_lines(path):
    """Files and bytes of content of a file of documents."""
    files = n = 0
    with open(whole(path), encoding="utf-8") as lines:
        for line in lines:
            files += 1
            n += len(json.loads(line)["content"].encode())
    return {"files": files, "bytes": n}


# --------------------------------------------------------------------------------------- tokens
def vocabulary(kitchen):
    text = kitchen.run("./tokenizer", "train", kitchen.path("refine", "train.jsonl"),
                       "-o", kitchen.here("vocab.gguf"), "--model", kitchen.here("tokenizer.model"),
                       *kitchen.plan.arguments("vocabulary"), *threads(kitchen))
    return {"printed": last_line(text)}


def pack_file(kitchen, source, name, *more):
    """A shard STAGE/NAME.tok; returns {documents, tokens, bytes}."""
    text = kitchen.run("./tokenizer", "pack", source, "-o", kitchen.here(name + ".tok"),
                       "--tokenizer", kitchen.path("vocabulary", "vocab.gguf"), *more,
                       *threads(kitchen))
    found = re.search(r"(\d+) documents, (\d+) tokens, (\d+) bytes", text)
    return dict(zip(("documents", "tokens", "bytes"), map(int, found.groups()))) if found else {}


def pack(kitchen):
    words = kitchen.plan.arguments("pack")
    return {name: pack_file(kitchen, kitchen.path("refine", source), name, *words)
            for name, source in (("train", "train.jsonl"), ("val", "held-out.jsonl"))}


def last_line(text):
    return text.strip().splitlines()[-1] if text.strip() else ""


# --------------------------------------------------------------------------------------- training
def checkpoint(kitchen, stage):
    """The newest checkpoint of a finished stage."""
    pattern = kitchen.path(stage, "model.bin.ckpt-*")
    if kitchen.dry:
        steps = kitchen.plan.get(stage, "steps")
        return pattern[:-1] + (f"{int(steps):06d}" if steps.isdigit() else "NNNNNN")
    found = sorted(glob.glob(glob.escape(whole(pattern[:-1])) + "[0-9]*"),
                   key=lambda name: int(name.rsplit("-", 1)[1]))
    if not found:
        raise CookError(f"{pattern}: not there, expected a checkpoint")
    return os.path.relpath(found[-1], ROOT)


def train(kitchen, command, data, *words):
    """Runs the trainer, from where a stopped run left off. The result is STAGE/model.bin, its
    record, and its newest checkpoint."""
    plan, stage, model = kitchen.plan, kitchen.stage, kitchen.here("model.bin")
    there = not kitchen.dry and glob.glob(glob.escape(whole(model)) + ".ckpt-*")
    minutes = plan.number(stage, "minutes", 0.0)
    within = 60 * minutes - kitchen.spent(whole(kitchen.here())) if minutes else None
    if not there or within is None or within > 0:
        kitchen.run(*plan.words("plan", "launch"), plan.trainer, command, *data, *words,
                    *plan.arguments(stage), *threads(kitchen), "-o", model,
                    *(["--resume"] if there else []), within=within)
    if kitchen.dry:
        return {}
    if not os.path.exists(whole(model)):  # out of time: the checkpoint, without AdamW's state
        kitchen.run("./convert", checkpoint(kitchen, stage), model)
    return read_record(model + ".csv")


def read_record(path):
    """First and last of what the trainer wrote down: loss, validation, tokens, updates, seconds."""
    with open(whole(path), encoding="utf-8") as file:
        names = file.readline().strip().split(",")
        rows = [dict(zip(names, line.strip().split(","))) for line in file]
    figures = {"updates": int(rows[-1]["step"]), "tokens": int(rows[-1]["tokens"]),
               "loss": float(rows[-1]["loss"] or "nan")}
    seen = [row for row in rows if row["val_loss"]]
    for name in ("val_loss", "val_bits_per_byte"):
        if seen:
            figures["first " + name], figures[name] = float(seen[0][name]), float(seen[-1][name])
    return figures


def pretrain(kitchen):
    return train(kitchen, "pretrain", [kitchen.path("pack", "train.tok")],
                 "--tokenizer", kitchen.path("vocabulary", "vocab.gguf"),
                 "--val", kitchen.path("pack", "val.tok"))
