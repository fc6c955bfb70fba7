"""tuning.py: from a base model to one that answers: instruct, mixture, anneal, sft-1, sft-2.

What to know first: the paper anneals on 84 % of the first distribution, 12.4 % of files with three
key phrases, which are denser in algorithms, and 3.6 % of synthetic functions (arXiv 2411.04905,
section 2.2), while the learning rate falls exponentially. Then it tunes in two stages: many pairs
once, better ones three times. Here all pairs come from docstrings of the corpus itself."""

import json
import os

from kitchen import CookError
from plan import ROOT
from stages import checkpoint, pack_file, threads, train, whole

SHORT = 15  # lines of an answer, and ...
BRIEF = 300  # ... characters of an instruction of stage 2, where no doctests tell good from bad


def read_lines(path):
    with open(whole(path), encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_lines(path, records):
    with open(whole(path), "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return len(records)


def spread(rows, most):
    """So many of the rows, evenly from all of them."""
    return [rows[i * len(rows) // most] for i in range(most)] if most < len(rows) else rows


# --------------------------------------------------------------------------------------- instruct
def is_short(pair):
    return pair["output"].count("\n") <= SHORT and len(pair["instruction"]) <= BRIEF


def choose(everything, alone, tested, many, better, most, best):
    """The pairs of both stages: all; and those that pass their own examples, then short ones that
    stand alone."""
    pairs, simple, proven = map(read_lines, (everything, alone, tested))
    if not pairs:
        raise CookError("instruct: no pairs, expected functions with docstrings in the corpus")
    seen = {pair["output"] for pair in proven}
    rest = [pair for pair in simple if is_short(pair) and pair["output"] not in seen]
    chosen = spread(proven, best) + spread(rest, max(best - len(proven), 0))
    return {"pairs": len(pairs), "with passing examples": len(proven),
            "stage 1": write_lines(many, spread(pairs, most)),
            "stage 2": write_lines(better, chosen or spread(pairs, best))}


def find_pairs(kitchen, name, source, words):
    """NAME.jsonl of the stage; no examples are tried where the kernel refuses the sandbox."""
    out = kitchen.here(name + ".jsonl")
    try:
        kitchen.run("./refine", "instruct", source, *words, *threads(kitchen), "-q",
                    "--stats", kitchen.here(name + "-stats.json"), "-o", out)
    except CookError as error:
        if name != "doctest" or "sandbox" not in str(error):
            raise
        kitchen.say("so no pair counts as tried out")
        write_lines(out, [])


def instruct(kitchen):
    plan, here = kitchen.plan, kitchen.here
    source, words = kitchen.path("refine", "train.jsonl"), plan.arguments("instruct")
    for path in plan.words("refine", "against"):
        words += ["--against", path]
    strict = [word for word in words if word not in ("--methods", "--partial")]
    for name, where, more in (("pairs", source, words), ("alone", source, strict),
                              ("doctest", source, ["--level", "doctest", *words]),
                              ("held-out", kitchen.path("refine", "held-out.jsonl"), words)):
        if name != "alone" or strict != words:
            find_pairs(kitchen, name, where, more)
    alone = "pairs" if strict == words else "alone"
    most, best, val = (plan.number("instruct", key, default) for key, default in
                       (("pairs", 1000000), ("best", 100000), ("validation", 500)))
    figures = kitchen.do(f"{here('stage1.jsonl')}: at most {most} pairs; {here('stage2.jsonl')}: "
                         f"at most {best}, those that pass their examples first", choose,
                         *(here(name + ".jsonl") for name in
                           ("pairs", alone, "doctest", "stage1", "stage2")), most, best) or {}
    for name in "stage1", "stage2":
        figures[f"packed {name}"] = pack_file(kitchen, here(name + ".jsonl"), name)
    found = kitchen.do(f"{here('val.jsonl')}: at most {val} pairs of held-out files",
                       lambda: write_lines(here("val.jsonl"),
                                           spread(read_lines(here("held-out.jsonl")), val)))
    if kitchen.dry or found:
        figures["packed validation"] = pack_file(kitchen, here("val.jsonl"), "val")
    return figures


# --------------------------------------------------------------------------------------- anneal
def mixture(kitchen):
    """The shards that are mixed with the pretraining data: algorithmic.tok and synthetic.tok; a
    part of which there is nothing has none. What is synthetic a model writes; without one, the
    functions of all pairs stand in for it: short texts that stand alone too, as functions with
    tests do, and without docstrings, so that a small model learns code from them."""
    plan, here, figures = kitchen.plan, kitchen.here, {}
    words = []
    for text in plan.get("mixture", "phrases").split(";"):
        words += ["--phrase", text.strip()] if text.strip() else []
    kitchen.run("./refine", "anneal", kitchen.path("refine", "train.jsonl"), *words,
                *threads(kitchen), "-o", here("algorithmic.jsonl"))
    writer = plan.get("mixture", "writer")
    if writer:
        kitchen.run("./refine", "synth", here("algorithmic.jsonl"), "--kind", "snippet",
                    "--model", writer, "--completions", here("written.jsonl"), *threads(kitchen),
                    "-o", here("synthetic.jsonl"))
    elif "instruct" in plan.sections:
        kitchen.do(f"{here('synthetic.jsonl')}: the functions of all pairs", write_functions,
                   kitchen.path("instruct", "pairs.jsonl"), here("synthetic.jsonl"))
    for name in "algorithmic", "synthetic":
        source = here(name + ".jsonl")
        if kitchen.dry or (os.path.exists(whole(source)) and os.path.getsize(whole(source))):
            figures[name] = pack_file(kitchen, source, name, "--kind", "text")
    return figures


def write_functions(pairs, out):
    """The code of each pair as a text of its own: what it imports, and one function."""
    fence = "```"
    texts = []
    for pair in read_lines(pairs):
        lines = [line for line in pair["output"].split("\n") if not line.startswith(fence)]
        texts.append({"content": "\n".join(lines) + "\n"})
    return write_lines(out, texts)


def anneal(kitchen):
    data, absent = [], []
    for name, weight in kitchen.plan.parts().items():
        shard = kitchen.path("pack", "train.tok") if name == "original" else \
            kitchen.path("mixture", name + ".tok")
        if not weight:
            continue
        if kitchen.dry or os.path.exists(whole(shard)):
            data.append(f"{shard}={weight:g}")
        else:
            absent.append(name)
            kitchen.say(f"no {name} files in this corpus: its share goes to the others")
    figures = train(kitchen, "anneal", data, "--init", checkpoint(kitchen, "pretrain"),
                    "--val", kitchen.path("pack", "val.tok"))
    return {**figures, "mixture": data, "absent": absent}


# --------------------------------------------------------------------------------------- sft
def before(plan, stage):
    """The last stage before this one that trains a model."""
    order = [name for name in ("pretrain", "anneal", "sft-1", "sft-2") if name in plan.sections]
    return order[order.index(stage) - 1]


def sft(kitchen, number):
    val = kitchen.path("instruct", "val.tok")
    has_val = kitchen.dry or os.path.exists(os.path.join(ROOT, val))
    return train(kitchen, "sft", [kitchen.path("instruct", f"stage{number}.tok")],
                 "--stage", number,
                 "--init", kitchen.path(before(kitchen.plan, kitchen.stage), "model.bin"),
                 *(["--val", val] if has_val else []))


def sft_1(kitchen):
    return sft(kitchen, 1)


def sft_2(kitchen):
    return sft(kitchen, 2)
