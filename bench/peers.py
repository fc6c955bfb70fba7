#!/usr/bin/env python3
"""peers.py: ./run against llama.cpp and its relatives on the same files, in turns.

    make all build/machine
    bench/peers.py --peer llama.cpp=PATH/llama-bench --peer ik=PATH/llama-bench > table.md

The peers are programs that you have built; the first token is measured with the llama-completion
or llama-cli beside their llama-bench. A round is: this machine's limits, ours, every peer, the
limits again. Other programs may run beside us, so a ratio compares two measurements of one round,
and the table gives the median of the rounds' ratios. A peer runs with and without its flash
attention, and the faster counts: both are tried before the rounds, and one that is clearly slower
is left out of them.

Models have random weights (speed does not depend on them) and are made one at a time, in build/.
--peer-file NAME=FILE adds a file of your own, for instance what a peer's llama-quantize wrote.

decode       tokens a second behind a short prompt, and behind a filled cache of N tokens; its share
             of the bandwidth counts the weights and the cache that a token needs
prompt N     tokens a second; its share of the multiply-add peak counts the weights' products alone
first token  seconds from the start of the program to its end, with a prompt of 16 tokens and one
             token generated; the file is in the page cache
memory       the peak resident set while decoding, of which the mapped file is a part"""

import argparse
import collections
import fcntl
import functools
import json
import os
import statistics
import subprocess
import sys
import time

from common import (ROOT, finish, inspect, machine, output_of, peak, processor, random_model,
                    rates_in)

SHORT, BEHIND, FIRST = 32, 24, 16  # tokens generated at once, behind a filled cache; first prompt
SLOWER = 0.85                      # of the faster way of a peer: left out
WARM = 1024                        # a longer prompt needs no run before the one that counts

# What is measured: `kind` decode, prompt or first, with `tokens` in the cache or prompt.
Measure = collections.namedtuple("Measure", "kind tokens")
# One measurement: tokens a second, or seconds of the first token; bytes of memory.
Result = collections.namedtuple("Result", "value memory")


def refuse(option, found, expected):
    print(f"error: {option}: {found}, expected {expected}", file=sys.stderr)
    sys.exit(2)


def say(text):
    print(text, file=sys.stderr, flush=True)


@functools.lru_cache(maxsize=None)
def prompt_file(model, tokens):
    """A file with source code of that many tokens; the tokenizer tells when its end is right."""
    path = os.path.join(ROOT, "build", f"peers-prompt-{tokens}.txt")
    with open(os.path.join(ROOT, "run.c"), encoding="utf-8") as source:
        text = source.read()
    length = 3 * tokens
    for attempt in range(200):
        if attempt % 20 == 19:  # no end gives that number: another beginning
            text = text[1:] + text[:1]
        with open(path, "w", encoding="utf-8") as file:
            file.write((text * (length // len(text) + 1))[:length])
        count = len(output_of("stdout", "./tokenizer", "encode", model, "-f", path).split())
        if count == tokens:
            return path
        step = round((tokens - count) * length / max(1, count))
        length = max(1, length + (step or (1 if count < tokens else -1)))
    sys.exit(f"error: ./tokenizer: {count} tokens in {path}, expected {tokens}")


def help_of(program):
    """What it says to -h, whatever its exit code: ik's llama-cli has 1."""
    try:
        done = subprocess.run([program, "-h"], stdin=subprocess.DEVNULL, capture_output=True,
                              check=False)
    except OSError as error:
        sys.exit(f"error: {program}: {error.strerror}, expected a program")
    return (done.stdout + done.stderr).decode(errors="replace")


class Ours:
    """./run, or another build of it."""
    ways = [""]

    def __init__(self, program):
        self.name, self.program = "ours", program

    def measure(self, measure, model, threads, _way):
        prompt = ["-i", "def fib"]
        generated = SHORT
        if measure.tokens:
            prompt = ["-f", prompt_file(model, measure.tokens)]
            generated = BEHIND if measure.kind == "decode" else 1
        done = finish(self.program, model, *prompt, "-n", generated, "-t", 0, "-j", threads)
        rates = rates_in(done.stderr)
        if rates.generated != generated:
            sys.exit(f"error: {self.program}: {rates.generated:.0f} tokens generated, "
                     f"expected {generated}; the model chose to stop")
        value = {"decode": rates.rate, "prompt": rates.prompt_rate, "first": done.seconds}
        return Result(value[measure.kind], done.memory)


class Peer:
    """A llama-bench of llama.cpp or of a relative."""

    def __init__(self, name, program, ways):
        self.name, self.program, self.ways = name, program, ways
        help_text = help_of(program)
        self.behind = "-d" if "--n-depth" in help_text else "-gp" if "-gp <" in help_text else None
        self.cold = ["--no-warmup"] if "--no-warmup" in help_text else \
            ["-w", "0"] if "--warmup" in help_text else []
        beside = [os.path.join(os.path.dirname(program), name)
                  for name in ("llama-completion", "llama-cli")]
        self.first = next((path for path in beside if os.access(path, os.X_OK)), None)

    def measure(self, measure, model, threads, way):
        if measure.kind == "first":
            return self.first_token(model, threads)
        if measure.kind == "prompt":
            work = ["-p", measure.tokens, "-n", 0]
        elif not measure.tokens:
            work = ["-p", 0, "-n", SHORT]
        elif self.behind == "-d":
            work = ["-p", 0, "-n", BEHIND, "-d", measure.tokens]
        elif self.behind == "-gp":
            work = ["-p", 0, "-n", 0, "-gp", f"{measure.tokens},{BEHIND}"]
        else:
            return None
        if measure.tokens > WARM:
            work += self.cold
        done = finish(self.program, "-m", model, "-t", threads, "-r", 1, "-o", "json", *work,
                      *way.split())
        try:
            (row,) = json.loads(done.stdout[done.stdout.index("["):])
            return Result(float(row["avg_ts"]), done.memory)
        except (ValueError, KeyError, TypeError):
            sys.exit(f"error: {self.program}: {done.stdout[:200]!r}, expected JSON with one row")

    def first_token(self, model, threads):
        if not self.first:
            return None
        prompt = prompt_file(model, FIRST)
        once = ["-no-cnv"] if "-no-cnv" in help_of(self.first) else []
        done = finish(self.first, "-m", model, "-f", prompt, "-n", 1, "-t", threads, "--temp", 0,
                      *once, "--no-warmup", "-c", 512)
        return Result(done.seconds, done.memory)


class Lock:
    """Holds a file's lock during a round, where several benchmarks share a machine."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.file = open(self.path, "a", encoding="utf-8") if self.path else None
        if self.file:
            fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        if self.file:
            self.file.close()


def better(measure, a, b):
    """How many times as good a is as b: more tokens a second, or fewer seconds."""
    return b / a if measure.kind == "first" else a / b


def contenders(engines, measure, model, options):
    """[(engine, way)]: ours, and of every peer the ways that are not clearly slower, for which they
    are tried; who has but one goes without."""
    chosen = []
    for engine in engines:
        if len(engine.ways) == 1:
            chosen.append((engine, engine.ways[0]))
            continue
        tried = []
        for way in engine.ways if measure.kind != "first" else engine.ways[:1]:
            with Lock(options.lock):
                result = engine.measure(measure, model, options.threads, way)
            if result:
                tried.append((way, result.value))
        best = max((value for _, value in tried), default=0)
        chosen += [(engine, way) for way, value in tried
                   if measure.kind == "first" or value >= SLOWER * best]
        say(f"  {engine.name}: " + ", ".join(f"{way or 'as it is'} {value:.2f}"
                                             for way, value in tried))
    return chosen


def rounds_of(measure, model, engines, options):
    """([Machine of a round], {(engine, way): [Result of a round]})"""
    limits, results = [], collections.defaultdict(list)
    chosen = contenders(engines, measure, model, options)
    probe = {"OMP_NUM_THREADS": str(options.threads)}
    for number in range(options.rounds):
        with Lock(options.lock):
            around = [machine(512, **probe)]
            for engine, way in chosen:
                result = engine.measure(measure, model, options.threads, way)
                if result:
                    results[engine, way].append(result)
            around.append(machine(512, **probe))
        limits.append(type(around[0])(*(
            None if None in pair else statistics.median(pair) for pair in zip(*around))))
        say(f"  round {number + 1} of {options.rounds}: {limits[-1].read:.1f} GB/s, " + ", ".join(
            f"{engine.name} {way} {taken[-1].value:.2f}"
            for (engine, way), taken in results.items()))
    return limits, best_ways(measure, results)


def best_ways(measure, results):
    """{name: (engine, [Result of a round])} of every engine's better way."""
    best = {}
    for (engine, way), taken in results.items():
        value = statistics.median(result.value for result in taken)
        if engine.name not in best or better(measure, value, best[engine.name][2]) > 1:
            best[engine.name] = engine, taken, value
    return {name: found[:2] for name, found in best.items()}


def share(measure, weights, engine, value, limits):
    """The share of the bandwidth or of the multiply-add peak that a rate is; None if neither."""
    if measure.kind == "first":
        return None
    if measure.kind == "decode":
        middle = measure.tokens + (BEHIND if measure.tokens else SHORT) / 2
        cache = 4 if engine.name == "ours" and weights.type == "f32" else 2  # bytes of a number
        needed = weights.bytes + weights.cached * cache * middle
        return 1e-9 * value * needed / limits.read
    products = (weights.multiplied - weights.head) * measure.tokens + weights.head
    return 2e-9 * value * products / measure.tokens / peak(limits, weights.type)[1]


def middle_of(values, form):
    values = [value for value in values if value is not None]
    return form.format(statistics.median(values)) if values else "-"


def rows_of(label, measure, weights, measured, names):
    """The Markdown rows of one measure: its own, and after a short decode the memory's."""
    limits, engines = measured
    title = {"decode": f"decode behind {measure.tokens}, tok/s" if measure.tokens
             else "decode, tok/s", "prompt": f"prompt {measure.tokens}, tok/s",
             "first": "first token, s"}[measure.kind]
    form = "{:.2f}" if measure.kind != "prompt" else "{:.1f}"
    ours = engines.get("ours")

    def row(heading, number, ratio, part):
        cells = [label, heading]
        cells += [number(*engines[name]) if name in engines else "-" for name in names]
        cells += [ratio(engines[name][1]) if ours and name in engines else "-"
                  for name in names if name != "ours"]
        cells += [part(*engines[name]) if name in engines else "-" for name in names]
        return "| " + " | ".join(cells) + " |"

    yield row(title,
              lambda engine, taken: middle_of([r.value for r in taken], form),
              lambda taken: middle_of([better(measure, a.value, b.value)
                                       for a, b in zip(ours[1], taken)], "{:.2f}"),
              lambda engine, taken: middle_of(
                  [share(measure, weights, engine, r.value, limit)
                   for r, limit in zip(taken, limits)], "{:.0%}"))
    if measure == Measure("decode", 0):
        yield row("memory, MB",
                  lambda engine, taken: middle_of([r.memory / 1e6 for r in taken], "{:.0f}"),
                  lambda taken: middle_of([b.memory / a.memory
                                           for a, b in zip(ours[1], taken)], "{:.2f}"),
                  lambda engine, taken: "-")


def measures_of(options):
    chosen = [Measure("decode", 0)] + [Measure("prompt", n) for n in options.prompt] + \
        [Measure("decode", n) for n in options.context] + [Measure("first", FIRST)]
    wanted = options.only.split(",") if options.only else ["decode", "prompt", "context", "first"]
    return [m for m in chosen
            if ("context" if m.kind == "decode" and m.tokens else m.kind) in wanted]


def compare(label, model, engines, options):
    """Prints the rows of one model file."""
    weights = inspect(model)
    names = [engine.name for engine in engines]
    for measure in measures_of(options):
        if measure.tokens + BEHIND > weights.context:
            say(f"{label}: context {weights.context}, {measure.tokens} is left out")
            continue
        say(f"{label}: {measure.kind} {measure.tokens or ''}")
        measured = rounds_of(measure, model, engines, options)
        for row in rows_of(label, measure, weights, measured, names):
            print(row, flush=True)


def header(engines, options):
    limits = machine(512, OMP_NUM_THREADS=str(options.threads))
    names = [engine.name for engine in engines]
    peers = [name for name in names if name != "ours"]
    print(f"{time.strftime('%Y-%m-%d')}, {processor()}, {options.threads} threads, medians of "
          f"{options.rounds} rounds; read {limits.read:.1f} GB/s, multiply-add " +
          ", ".join(f"{name} {getattr(limits, name):.0f}"
                    for name in ("float32", "int16", "int8", "bf16") if getattr(limits, name)) +
          " GOP/s\n")
    cells = ["file", "measure"] + names + [f"times {name}" for name in peers] + \
        [f"share, {name}" for name in names]
    print("| " + " | ".join(cells) + " |")
    print("|---|---" + "|---:" * (len(cells) - 2) + "|", flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     epilog=__doc__.split("\n", 2)[2],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    more = {"action": "append", "default": []}
    parser.add_argument("--peer", metavar="NAME=PATH", **more, help="a llama-bench; repeatable")
    parser.add_argument("--ways", metavar="NAME=OPTIONS", **more,
                        help="options that a peer may run with, of which the best counts "
                             "[-fa 0 and -fa 1]; repeatable")
    parser.add_argument("--model", metavar="FILE", **more, help="measure a file; repeatable")
    parser.add_argument("--peer-file", metavar="NAME=FILE", **more,
                        help="the same, under a name of its own; repeatable")
    parser.add_argument("--types", help="of the random models [q8_0,q4_0,bf16,f32, or none with "
                                        "--model or --peer-file]")
    parser.add_argument("--shape", choices=["1.5b", "8b"], default="1.5b")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt", type=int, metavar="N", **more, help="tokens [512 and 2048]")
    parser.add_argument("--context", type=int, metavar="N", **more, help="tokens [2048 and 4000]")
    parser.add_argument("--only", metavar="LIST", help="of decode,prompt,context,first")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--ours", metavar="FILE", default="./run", help="a build of ours [./run]")
    parser.add_argument("--peers-only", action="store_true", help="leave ours out")
    parser.add_argument("--keep", action="store_true", help="do not delete the random models")
    parser.add_argument("--lock", metavar="FILE", help="a lock to hold during a round")
    return parser.parse_args()


def named(option, text):
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        refuse(option, repr(text), "NAME=VALUE")
    return name, value


def checked():
    """The options, and [Ours, Peer, ...]."""
    options = parse()
    options.prompt = options.prompt or [512, 2048]
    options.context = options.context or [2048, 4000]
    if min(options.rounds, options.threads, *options.prompt, *options.context) < 1:
        refuse("--rounds, --threads, --prompt, --context", "less than 1", "at least 1")
    for word in options.only.split(",") if options.only else []:
        if word not in ("decode", "prompt", "context", "first"):
            refuse("--only", repr(word), "decode, prompt, context or first")
    ways = collections.defaultdict(list)
    for text in options.ways:
        name, value = named("--ways", text)
        ways[name].append(value)
    engines = [] if options.peers_only else [Ours(options.ours)]
    for text in options.peer:
        name, path = named("--peer", text)
        path = os.path.abspath(path)
        if not os.access(path, os.X_OK) or os.path.isdir(path):
            refuse("--peer", repr(text), "the path of a llama-bench that was built")
        if name in [engine.name for engine in engines]:
            refuse("--peer", f"{name} twice", "another name")
        engines.append(Peer(name, path, ways.pop(name, ["-fa 0", "-fa 1"])))
    if ways:
        refuse("--ways", next(iter(ways)), "the name of a --peer")
    if not engines:
        refuse("--peers-only", "no --peer", "at least one")
    return options, engines


def main():
    options, engines = checked()
    own = [(os.path.basename(path), path) for path in options.model] + \
        [named("--peer-file", text) for text in options.peer_file]
    own = [(name, os.path.abspath(path)) for name, path in own]
    for name, path in own:
        if not os.path.isfile(path):
            refuse("--model or --peer-file", path, "a GGUF file")
    types = options.types or ("" if own else "q8_0,q4_0,bf16,f32")
    header(engines, options)
    for storage in filter(None, types.split(",")):
        path = f"build/peers-{options.shape}-{storage}.gguf"
        there = os.path.exists(os.path.join(ROOT, path))
        say(f"{path}: {'is there' if there else 'is made'}")
        random_model(options.shape, storage, path)
        try:
            compare(f"{options.shape} {storage}", path, engines, options)
        finally:
            if not there and not options.keep:
                os.remove(os.path.join(ROOT, path))
    for name, path in own:
        compare(name, path, engines, options)


if __name__ == "__main__":
    main()
