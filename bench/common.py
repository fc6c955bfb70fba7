"""common.py: what the benchmark scripts share: starting programs, and reading what they print."""

import collections
import os
import platform
import re
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RATES = re.compile(r"prompt (\d+) tokens ([\d.]+) tok/s, "
                   r"generated (\d+) tokens ([\d.]+) tok/s, ([\d.]+) GB/s")
MACHINE = re.compile(r"read ([\d.]+) GB/s, multiply-add ([\d.]+) GFLOP/s, (\d+) threads"
                     r"(?:, int16 ([\d.]+) GOP/s)?(?:, int8 ([\d.]+) GOP/s)?"
                     r"(?:, bf16 ([\d.]+) GFLOP/s)?")
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}

# Gigabytes, and 1e9 operations, in a second; None where the processor lacks the instruction.
Machine = collections.namedtuple("Machine", "read float32 threads int16 int8 bf16")
# What ./run says of itself: tokens, and tokens a second; gigabytes read in a second.
Rates = collections.namedtuple("Rates", "prompt prompt_rate generated rate gigabytes")
# What a program wrote, its peak resident set in bytes, and the seconds from its start to its end.
Finished = collections.namedtuple("Finished", "stdout stderr memory seconds")
# Of a model file: bytes and weights that every token is multiplied with, without the embedding,
# of which one row is read; of the weights those of the head; keys and values of one position; the
# longest context; the type that most weights have.
Weights = collections.namedtuple("Weights", "bytes multiplied head cached context type")


def finish(*command, **more):
    """Runs a command to its end; ends the benchmark if it fails."""
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.monotonic()
        try:
            child = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out,
                                     stderr=err, env={**os.environ, **more})
        except OSError as error:
            sys.exit(f"error: {words[0]}: {error.strerror}, expected a program; "
                     "`make all build/machine` builds ours")
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    if child.returncode:
        sys.exit(f"error: {' '.join(words)}: exit code {child.returncode}, expected 0: "
                 f"{texts[1].strip()[-1000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Finished(*texts, usage.ru_maxrss * unit, seconds)


def output_of(stream, *command):
    """What a command writes to "stdout" or "stderr"; ends the benchmark if it fails."""
    return getattr(finish(*command), stream)


def rates_in(text):
    """The rates in the last line that ./run wrote to stderr."""
    found = RATES.search(text.strip().splitlines()[-1] if text.strip() else "")
    if not found:
        sys.exit(f"error: ./run: the last line on stderr is not about rates: {text!r}")
    return Rates(*(float(number) for number in found.groups()))


def machine(*arguments, **more):
    """One measurement of this machine."""
    text = finish("build/machine", *arguments, **more).stdout
    found = MACHINE.search(text)
    if not found:
        sys.exit(f"error: build/machine: {text!r}, expected read, multiply-add and threads")
    return Machine(*(number and float(number) for number in found.groups()))


def inspect(model):
    """The Weights of a file, from ./convert --inspect."""
    text = output_of("stdout", "./convert", "--inspect", model)
    layers, heads, width = (re.search(pattern, text) for pattern in (
        r"\nlayers (\d+)", r"key/value heads (\d+)", r" heads \d+ of (\d+)"))
    context = re.search(r"context (\d+)", text)
    if not (layers and heads and width and context):
        sys.exit(f"error: {model}: convert --inspect does not tell its shape: {text[:200]!r}")
    size, count, head, types = 0, 0, 0, collections.Counter()
    tensors = re.findall(r"^ *\d+  (\S+) +(\d+) x (\d+) +([\d.]+) (\w+) +(\S+)$", text,
                         re.MULTILINE)
    tied = all(name != "output.weight" for *_, name in tensors)
    for storage, rows, columns, number, unit, name in tensors:
        weights = int(rows) * int(columns)
        if name == "output.weight" or (tied and name == "token_embd.weight"):
            head = weights
        elif name == "token_embd.weight":
            continue
        size += float(number) * UNITS[unit]
        count += weights
        types[storage] += weights
    cached = 2 * int(layers.group(1)) * int(heads.group(1)) * int(width.group(1))
    storage = types.most_common(1)[0][0]
    return Weights(size, count, head, cached, int(context.group(1)), storage)


def peak(limits, storage):
    """(name, 1e9 operations a second) of the fastest multiply-add that suits a type of weights."""
    suit = {"f32": ["float32"], "f16": ["float32"], "bf16": ["bf16", "float32"]}
    name = max(suit.get(storage, ["int8", "float32"]), key=lambda name: getattr(limits, name) or 0)
    return name, getattr(limits, name)


def random_model(shape, storage, path):
    """Makes a model of a shape with random weights, unless it is there."""
    if not os.path.exists(os.path.join(ROOT, path)):
        output_of("stdout", "./convert", "--random", shape, path, "-q", storage, "--seed", 1)


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return re.search(r"model name\s*:\s*(.*)", file.read()).group(1)
    except (OSError, AttributeError):
        return platform.processor() or platform.machine()
