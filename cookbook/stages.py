"""stages.py: from what was collected to a base model: refine, vocabulary, pack, pretrain.

What to know first: pretraining is one stage, or two where the plan has [pretrain-1], a phase before
it with rows of another length, as the paper's 8B has."""

import glob
import json
import os
import re
import shutil
import zlib

from collect import ONE_IN, chance, left_out
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


def held_out(source, names, leave_out, other):
    """A function that says of a record whether it is held out: what lies in repositories of these
    names, and what the file `other` has; without both, one file of ONE_IN, by a hash of its
    path."""
    there, last = set(), -1
    if other:
        there = {(record["repo"], record["path"]) for _, record in refined(other, set())}
    elif not names:
        numbers = sorted(number_of(record) for _, record in refined(source, leave_out))
        last = numbers[(len(numbers) - 1) // ONE_IN] if numbers else -1
    return lambda record: record["repo"] in names or number_of(record) <= last or \
        (record["repo"], record["path"]) in there


def split(source, train, held, names, leave_out, other):
    """Parts the refined files and returns what was counted. What is held out, or what `other` has
    instead, is written a second time in the form of a benchmark, for `refine decontaminate`."""
    is_out = held_out(source, names, leave_out, other)
    count = {"train": [0, 0], "held-out": [0, 0]}

    def put(part, record, line, file):
        file.write(line)
        count[part][0] += 1
        count[part][1] += len(record["content"].encode())
    with open(whole(train), "w", encoding="utf-8") as to_train, \
            open(whole(held), "w", encoding="utf-8") as to_held, \
            open(whole(tasks_of(held)), "w", encoding="utf-8") as tasks:
        for line, record in refined(source, leave_out):
            if not is_out(record):
                put("train", record, line, to_train)
            elif not other:
                put("held-out", record, line, to_held)
        for line, record in refined(other, set()) if other else ():
            put("held-out", record, line, to_held)
        to_held.flush()
        for _, record in refined(held, set()):
            tasks.write(json.dumps({"prompt": record["content"]}) + "\n")
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
               write_meta, meta, held, corpus or kitchen.path("collect", "raw"),
               plan.get("refine", "stars"))
    kitchen.run("./refine", "all", corpus or kitchen.path("collect", "raw"), *words,
                *plan.arguments("refine"), *threads(kitchen), "--stats", stats, "-o", clean)
    train, held_out = kitchen.here("train.jsonl"), kitchen.here("held-out.jsonl")
    limit = plan.number("refine", "held-out-words", 32)
    parted = kitchen.here("parted.jsonl") if limit else train
    counted = kitchen.do(f"{clean} to {parted} and {held_out}", split, clean, parted, held_out,
                         set(held), set(plan.words("collect", "leave-out")),
                         plan.get("refine", "held-out-from"))
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


def write_meta(path, held, corpus, stars):
    """What refine is told of repositories; of two lines about one the last counts. Made-up stars
    have a heavy tail: s or more for 1.5 / (s + 1) of the repositories, so 5 for a quarter."""
    lines, given = [], []
    if stars == "made-up":
        given = [{"repo": name, "stars": int(1.5 / chance(f"stars of {name}")) - 1}
                 for name in sorted(os.listdir(whole(corpus)))]
    elif stars:
        with open(whole(stars), encoding="utf-8") as file:
            lines = [line.rstrip("\n") for line in file]
    given += [{"repo": name, "stars": STARS} for name in held]
    with open(whole(path), "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines + [json.dumps(row) for row in given])


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
    given = kitchen.plan.get("vocabulary", "from")
    if given:
        kitchen.do(f"copy {given} to {kitchen.here('vocab.gguf')}", shutil.copyfile, whole(given),
                   whole(kitchen.here("vocab.gguf")))
        return {"printed": f"that of {given}"}
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


def pretrain_1(kitchen):
    return train(kitchen, "pretrain", [kitchen.path("pack", "train.tok")],
                 "--tokenizer", kitchen.path("vocabulary", "vocab.gguf"),
                 "--val", kitchen.path("pack", "val.tok"))


def pretrain(kitchen):
    """The whole pretraining, or its second phase, which goes on at the same rate where the first
    one ended; of the trainer's commands, `anneal` is the one that goes on with AdamW's state."""
    plan, words = kitchen.plan, []
    if "pretrain-1" not in plan.sections:
        return pretrain_1(kitchen)
    for key, value in ("schedule", "constant"), ("warmup", 0):
        words += [] if plan.get("pretrain", key) else ["--" + key, value]
    return train(kitchen, "anneal", [kitchen.path("pack", "train.tok")],
                 "--init", checkpoint(kitchen, "pretrain-1"),
                 "--val", kitchen.path("pack", "val.tok"), *words)
