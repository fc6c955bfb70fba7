"""measure.py: how good the models of a run are: export, evaluate.

What to know first: three measures on files that no model has seen. Bits per byte: what a model
needs for a text, next to gzip and xz. Completions: functions are cut behind their header, a model
goes on greedily, and Python's parser says whether that is a function. Scores: HumanEval and MBPP
by ./evaluate, where the person has their files. The rule for completions: cut at the first later
line in column 0, an unfinished last line dropped; header and body together pass ast.parse with at
least two statements."""

import ast
import lzma
import os
import random
import re
import textwrap
import warnings
import zlib

from kitchen import CookError
from stages import threads, whole
from tuning import read_lines, spread, write_lines

SYSTEM = "You are OpenCoder, created by OpenCoder Team."
STAGES = (("pretrain", "base"), ("anneal", "annealed"), ("sft-1", "stage-1"), ("sft-2", "chat"))
MOST_TOKENS = 128
LONGEST = 300  # characters of a header or a question: they must fit small contexts


# --------------------------------------------------------------------------------------- export
def models(kitchen):
    """[(name, path)] of the models of a run that are measured, in the order they were made: those
    that the plan names, or all but what stage 2 goes on from."""
    plan = kitchen.plan
    found = {name: kitchen.path(stage, "model.bin") for stage, name in STAGES
             if stage in plan.sections}
    if "export" in plan.sections:
        found["exported"] = kitchen.path("export", "model.bin")
    wanted = plan.words("evaluate", "models") or \
        [name for name in found if name != "stage-1" or "sft-2" not in plan.sections]
    for name in wanted:
        if name not in found:
            raise CookError(f"{plan.path}: [evaluate] models: '{name}', expected some of "
                            f"{' '.join(found)}")
    return [(name, path) for name, path in found.items() if name in wanted]


def exported(plan):
    """(name, stage) of the model to give away: the last one, unless the plan names another."""
    there = {name: stage for stage, name in STAGES if stage in plan.sections}
    wanted = plan.get("export", "model", list(there)[-1])
    if wanted not in there:
        raise CookError(f"{plan.path}: [export] model: '{wanted}', expected one of "
                        f"{', '.join(there)}")
    return wanted, there[wanted]


def is_chat(plan, name):
    return (exported(plan)[0] if name == "exported" else name) in ("chat", "stage-1")


def export(kitchen):
    """Quantizes the model that is given away, and checks every checksum of it."""
    plan, out = kitchen.plan, kitchen.here("model.bin")
    wanted, stage = exported(plan)
    kitchen.run("./convert", kitchen.path(stage, "model.bin"), out, *plan.arguments("export"))
    kitchen.run("./convert", "--check", out)
    kitchen.run("./convert", "--inspect", out, out=kitchen.here("inspect.txt"))
    return {"model": wanted, "bytes": 0 if kitchen.dry else os.path.getsize(whole(out))}


# --------------------------------------------------------------------------------------- bytes
def held_out_text(source, out, most):
    """Whole held-out files, drawn by seed, up to so many bytes, as one text; and what gzip and xz
    make of them, each file alone and all as one stream, in bits per byte."""
    texts = [record["content"].encode() for record in read_lines(source)]
    random.Random(1).shuffle(texts)
    chosen, total = [], 0
    for text in texts:
        if total + len(text) <= most:
            chosen.append(text)
            total += len(text)
    if not chosen:
        chosen = [min(texts, key=len)]
        total = len(chosen[0])
    with open(whole(out), "wb") as file:
        file.write(b"".join(chosen))

    def gzip(data):
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        return len(packer.compress(data) + packer.flush())

    def xz(data):
        return len(lzma.compress(data, preset=9))
    bits = {}
    for name, pack in ("gzip -9", gzip), ("xz -9", xz):
        bits[f"{name}, file by file"] = 8 * sum(map(pack, chosen)) / total
        bits[f"{name}, one stream"] = 8 * pack(b"".join(chosen)) / total
    return {"files": len(chosen), "bytes": total, "bits": bits}


def bits_per_byte(kitchen, model, text):
    """In windows of the rows of pretraining: what lies beyond, the base model has never seen."""
    length = kitchen.plan.get("pretrain", "seq-len")
    printed = kitchen.run("./run", model, "--perplexity", text, "-q", *threads(kitchen),
                          *(["-c", length] if length else []))
    found = re.search(r"([\d.]+) bits per byte", printed)
    return float(found.group(1)) if found else None


# --------------------------------------------------------------------------------------- parsing
def headers_of(text):
    """Yields (is it a method, header) of the functions of a file whose bodies have lines of their
    own; a header ends before the docstring."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = text.split("\n")
    top = {node for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.body[0].lineno > node.lineno and \
                len(node.body) > 1:
            first = node.body[0]
            until = min([first.lineno] + [d.lineno for d in getattr(first, "decorator_list", [])])
            header = textwrap.dedent("\n".join(lines[node.lineno - 1:until - 1]))
            if header.rstrip().endswith(":") and header.startswith("def "):
                yield node not in top, header.rstrip() + "\n"


def choose_headers(source, out, most):
    """So many headers, evenly from all held-out files; methods only where functions are few."""
    found = {}
    for record in read_lines(source):
        for method, header in headers_of(record["content"]):
            if len(header) <= LONGEST:
                found.setdefault(header, method)
    functions = [header for header, method in found.items() if not method]
    methods = [header for header, method in found.items() if method]
    chosen = spread(functions, most)
    chosen += spread(methods, most - len(chosen))
    return write_lines(out, [{"prompt": header} for header in chosen])


def cut_body(completion, whole_text):
    """The lines of a body: up to the first later line in column 0, without an unfinished one."""
    lines = completion.split("\n")
    if not whole_text:
        lines = lines[:-1]
    for number, line in enumerate(lines):
        if line and not line[0].isspace():
            return "\n".join(lines[:number])
    return "\n".join(lines)


def statements(header, body):
    """How many statements the function has, and how many beside docstrings and pass; None where it
    does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(header + body + "\n")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    inner = [node for node in ast.walk(tree.body[0]) if isinstance(node, ast.stmt)][1:]
    idle = [node for node in inner if isinstance(node, ast.Pass) or
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    return len(inner), len(inner) - len(idle)


def judge(completions):
    """The score of a model's completions, and some of both kinds to look at."""
    good, bad, working = [], [], 0
    for row in read_lines(completions):
        body = cut_body(row["completion"], row["end"] == "stop")
        count = statements(row["prompt"], body)
        ok = bool(count and count[0] >= 2)
        working += bool(count and count[1] >= 2)
        (good if ok else bad).append((row["prompt"] + body).rstrip())
    return {"functions": len(good) + len(bad), "parse": len(good),
            "parse, docstrings and pass not counted": working,
            "good": spread(good, 3), "bad": spread(bad, 3)}


# --------------------------------------------------------------------------------------- evaluate
def score(kitchen, model, name, path):
    """{"passed", "total"} of a benchmark."""
    chat = ["--chat"] if is_chat(kitchen.plan, name) else []
    benchmark = os.path.splitext(os.path.basename(path))[0]
    text = kitchen.run("./evaluate", model, path, *chat, *kitchen.plan.arguments("evaluate"),
                       *threads(kitchen), "-q", "-o", kitchen.here(f"{name}-{benchmark}"))
    found = re.search(r"^(\d+)/(\d+) [\d.]+ %", text.strip().split("\n")[-1])
    return {"passed": int(found.group(1)), "total": int(found.group(2))} if found else None


def questions(source, out):
    """Some held-out questions, as a chat model is asked them; and how code begins, for all."""
    pairs = read_lines(source) if os.path.exists(whole(source)) else []
    asked = spread([pair for pair in pairs if len(pair["instruction"]) <= LONGEST], 3)
    return write_lines(out, [{"prompt": "def fib"}, {"prompt": "import "}] + [
        {"prompt": f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
                   f"{pair['instruction']}<|im_end|>\n<|im_start|>assistant\n"} for pair in asked])


def evaluate(kitchen):
    plan, here = kitchen.plan, kitchen.here
    held = kitchen.path("refine", "held-out.jsonl")
    text, headers = here("held-out.txt"), here("headers.jsonl")
    figures = {"text": kitchen.do(
        f"{text}: held-out files, and what gzip and xz make of them", held_out_text, held, text,
        plan.number("evaluate", "held-out-bytes", 300000)), "models": {}}
    number = plan.number("evaluate", "completions", 100)
    count = kitchen.do(f"{headers}: headers of {number} held-out functions", choose_headers, held,
                       headers, number)
    kitchen.do(f"{here('questions.jsonl')}: what a person might ask", questions,
               kitchen.path("instruct", "val.jsonl"), here("questions.jsonl"))
    tokens = plan.number("evaluate", "tokens", MOST_TOKENS)
    for name, model in models(kitchen):
        row = figures["models"][name] = {"bits": bits_per_byte(kitchen, model, text)}
        if kitchen.dry or count:
            done = here(f"{name}-completions.jsonl")
            kitchen.run("./run", model, "--prompts", headers, "-n", tokens, "-q",
                        *threads(kitchen), out=done)
            row["completions"] = None if kitchen.dry else judge(done)
        answers = here(f"{name}-answers.jsonl")
        kitchen.run("./run", model, "--prompts", here("questions.jsonl"), "-n", tokens, "-q",
                    *threads(kitchen), out=answers)
        row["scores"] = {os.path.basename(path): score(kitchen, model, name, path)
                         for path in plan.words("evaluate", "tasks")}
    if not kitchen.dry:
        kitchen.say(summary(figures))
    return figures


def summary(figures):
    """A line for each model."""
    lines = []
    for name, row in figures["models"].items():
        done = row.get("completions") or {}
        lines.append(f"{name}: {row['bits']} bits per byte, "
                     f"{done.get('parse', 0)} of {done.get('functions', 0)} completions parse")
    return "\n".join(lines)
