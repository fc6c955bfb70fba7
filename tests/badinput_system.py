"""badinput_system.py: what the system does to a program: odd paths, full disks, closed pipes,
signals, memory that is not there, files that change underfoot."""

import contextlib
import functools
import glob
import os
import signal
import subprocess
import time

import badinput_case
from badinput_case import (SECONDS, accept, act, broken, command_line, environment, one_error,
                           reject, start, tree, usage)
from badinput_files import DIM, F16, U32, Gguf, hf_directory
from badinput_line import model, vocabulary
from check import short, skip

FILES = {"m.gguf": model(), "v": vocabulary()}
SPEAK = "run m.gguf -q -i a -n 3"


def verdict(done, code, words, *, directory=None, before=None):
    """What is wrong with a refusal that a function has brought about, or None."""
    if broken(done):
        return broken(done)
    if done.returncode != code:
        return f"exit code {done.returncode}, expected {code}: {short(done.stderr)}"
    if one_error(done.stderr, words):
        return one_error(done.stderr, words)
    if directory and tree(directory) != before:
        return f"left behind: {sorted(tree(directory))}, expected {sorted(before)}"
    return None


# ------------------------------------------------------------------------------------------- paths
def paths():
    odd = {"no": "No such file", "/dev/null": "not a regular file",
           "/dev/zero": "not a regular file",
           "d": "not a regular file", "": "cannot open", "-": "cannot open", "x" * 300: "too long",
           "x" * 5000: "too long", "m.gguf/x": "Not a directory", "m.gguf\xff": "No such file"}
    for path, word in odd.items():
        mention = path[:20] if path.isascii() else "m.gguf"
        name = f"{mention!r}, {len(path)} bytes"
        yield reject(f"path: model {name}", ["run", path, "-i", "a"], {**FILES, "d/x": b""},
                     mention, word)
        yield reject(f"path: vocabulary {name}", ["tokenizer", "info", path],
                     {**FILES, "d/x": b""},
                     mention, word)
    for option in "-f", "--perplexity":
        yield reject(f"path: {option} a directory", f"run m.gguf {option} .", FILES, ".",
                     "directory")
        yield reject(f"path: {option} missing", f"run m.gguf {option} no", FILES, "no",
                     "No such file")
        yield reject(f"path: {option} /dev/zero", f"run m.gguf -q {option} /dev/zero", FILES,
                     "/dev/zero",
                     seconds=20)
    for path, word in (("no/D", "No such file"), (".", "not a regular file"),
                       ("/dev/full", "not a regular file")):
        yield reject(f"path: --dump-activations {path}",
                     f"run m.gguf -q -i a --dump-activations {path}", FILES, path, word)
    yield usage("path: two models, one with a line feed", ["run", "m.gguf", "a\nb", "-i", "a"],
                files=FILES)
    yield reject("path: model of a line feed and an escape", ["run", "a\n\x1b[31mb", "-i", "a"],
                 FILES, "No such file")
    for name, command in (("run", "run p -i a"), ("tokenizer", "tokenizer info p"),
                          ("convert", "convert p OUT"),
                          ("convert --check", "convert --check p"), ("-z", "run m.gguf -i a -z p"),
                          ("convert, OUT", "convert m.gguf p"),
                          ("convert, OUT, -o hf", "convert m.gguf p -o hf"),
                          ("--dump-activations", "run m.gguf -q -i a --dump-activations p")):
        yield act(f"path: a FIFO nobody writes to, {name}", functools.partial(fifo, command), FILES)
    yield act("path: a loop of links", link_loop, FILES)
    yield act("path: unreadable",
              functools.partial(denied, "run m.gguf -i a", ["m.gguf"], "m.gguf", 0), FILES)
    yield act("path: a directory that takes no files", functools.partial(
        denied, "convert m.gguf OUT", ["OUT"], ".", 0o555), FILES)
    left = {"OUT.tmp-2147483646/a": b"x", "OUT.tmp-2147483646/d/b": b"y", "OUT.x.tmp-2147483645":
            b"z", "OUT.tmp-0": b"", "OUT.tmp-1": b"", "OUT.tmp-9999999999": b"", "OUT.tmp-7x": b"",
            "OUTtmp": b"", "OUT.tmp-2147483644/a": b"x"}
    yield accept("path: what killed processes left is removed", "convert m.gguf OUT",
                 {**FILES, **left}, made=["OUT"], may_change=(
                     "OUT.tmp-2147483646/a", "OUT.x.tmp-2147483645", "OUT.tmp-2147483644",
                     "OUT.tmp-2147483644/a"))
    yield usage("path: DEL and an escape in a message", ["run", "--x\x7f\x1b"], "\\x7f\\x1b")


def fifo(command, directory):
    os.mkfifo(os.path.join(directory, "p"))
    before = tree(directory)
    return verdict(start(command, directory), 1, ["p: "], directory=directory, before=before)


def link_loop(directory):
    os.symlink("loop", os.path.join(directory, "loop"))
    return verdict(start("run loop -i a", directory), 1, ["loop", "symbolic links"])


def denied(command, words, path, mode, directory):
    """A command meets a path of that mode; as nobody, where we are root and may do anything."""
    path = os.path.join(directory, path)
    os.chmod(path, mode)
    before = tree(directory)
    try:
        done = start(command, directory, **({"user": 65534} if os.getuid() == 0 else {}))
        return verdict(done, 1, [*words, "Permission denied"], directory=directory, before=before)
    except PermissionError:  # nobody may not start our programs
        skip(f"{command}, permission denied", "no other user can be had here")
        return None
    finally:
        os.chmod(path, 0o755)


# ------------------------------------------------------------------------------------------ output
OUTPUTS = {"run": SPEAK, "run, chat": "run m.gguf -q -m chat -y s -i a",
           "run --logprobs": SPEAK + " --logprobs 2",
           "run --perplexity": "run m.gguf -q --perplexity m.gguf", "run -h": "run -h",
           "tokenizer encode": "tokenizer encode v -i abc",
           "tokenizer decode": "tokenizer decode v 4 5",
           "tokenizer info": "tokenizer info v", "convert --inspect": "convert --inspect m.gguf",
           "convert -h": "convert -h", "run --version": "run --version"}


def full_device(command, directory):
    with open("/dev/full", "wb") as full:
        done = start(command, directory, stdout=full)
    return verdict(done, 1, ["stdout", "No space left"])


def closed_output(command, directory):
    line = command_line(command)
    done = subprocess.run(["/bin/sh", "-c", '"$@" >&-', "sh", *line], cwd=directory,
                          env=environment(),
                          stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=SECONDS)
    return verdict(done, 1, ["stdout", "Bad file descriptor"])


def closed_pipe(command, directory):
    """When its reader goes away a program ends quietly, by SIGPIPE or with 1."""
    out, into = os.pipe()
    os.close(out)
    try:
        done = start(command, directory, stdout=into)
    finally:
        os.close(into)
    if done.returncode not in (1, -signal.SIGPIPE) or done.stderr:
        return f"exit code {done.returncode}, expected 1 and silence: {short(done.stderr)}"
    return None


def closed_input(command, directory):
    line = command_line(command)
    done = subprocess.run(["/bin/sh", "-c", '"$@" <&-', "sh", *line], cwd=directory,
                          env=environment(),
                          capture_output=True, timeout=SECONDS)
    return verdict(done, 1, ["stdin", "Bad file descriptor"])


def all_closed(directory):
    """With 0, 1 and 2 closed, OUT could become any of them, and messages land in the model."""
    line = command_line("convert m.gguf OUT")
    subprocess.run(["/bin/sh", "-c", '"$@" <&- >&- 2>&-', "sh", *line], cwd=directory,
                   env=environment(),
                   timeout=SECONDS)
    made = os.path.join(directory, "OUT")
    if not os.path.exists(made):
        return None
    done = start("convert --check OUT", directory)
    return f"OUT is broken: {short(done.stderr)}" if done.returncode else None


def outputs():
    for name, command in OUTPUTS.items():
        yield act(f"output to a full device, {name}", functools.partial(full_device, command),
                  FILES)
        yield act(f"output closed, {name}", functools.partial(closed_output, command), FILES)
        yield act(f"output to a pipe nobody reads, {name}", functools.partial(closed_pipe, command),
                  FILES)
    for name, command in ("run -i -", "run m.gguf -q -i -"), ("tokenizer encode",
                                                              "tokenizer encode v"), \
            ("tokenizer decode", "tokenizer decode v"):
        yield act(f"input closed, {name}", functools.partial(closed_input, command), FILES)
    yield act("input, output and messages closed", all_closed, FILES)


# ---------------------------------------------------------------------------------------- full disk
@contextlib.contextmanager
def small_disk(directory, kilobytes):
    """A file system of that size, in the directory d; yields False where none can be had."""
    place = os.path.join(directory, "d")
    os.mkdir(place)
    mounted = os.getuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", place],
        stderr=subprocess.DEVNULL).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", place], check=True)


def full_disk(command, directory):
    with small_disk(directory, 12) as there:
        if not there:
            skip(f"full disk, {command}", "no file system can be mounted here")
            return None
        with open(os.path.join(directory, "d/OUT.old"), "wb") as file:
            file.write(b"old")
        before = tree(directory)
        done = start(command, directory)
        return verdict(done, 1, ["d/", "No space left"], directory=directory, before=before)


def size_limit(command, directory):
    """A limit on the size of files, which comes as a signal where that is not ignored."""
    before = tree(directory)
    done = start(command, directory, ulimit="-f 8")
    return verdict(done, 1, ["OUT", "File too large"], directory=directory, before=before)


WRITERS = {"convert": "convert m.gguf {}", "convert -o hf": "convert m.gguf {} -o hf",
           "convert from hf": "convert hf {}",
           "convert --random": "convert --random tiny {} -q q4_0",
           "run --dump-activations": "run m.gguf -q -i aaaaaaaaaaaaaaaaaaaa --dump-activations {}"}


def disks():
    files = {**FILES, **hf_directory()}
    for name, command in WRITERS.items():
        yield act(f"full disk, {name}", functools.partial(full_disk, command.format("d/OUT")),
                  files)
        yield act(f"limit on file size, {name}",
                  functools.partial(size_limit, command.format("OUT")), files)


# ------------------------------------------------------------------------------------------ signals
def large_model(directory):
    """A model of 256 MB that takes no room on disk: its last tensor is one hole."""
    rows = 1 << 22
    g = Gguf(checksums="none")
    g.keys = [key for key in g.keys if key[0] != "llama.vocab_size"]
    g.set("llama.vocab_size", U32, 1 << 20)
    g.tensors = [t for t in g.tensors if t[0] not in ("token_embd.weight", "output.weight")]
    for name in "token_embd.weight", "opt.m.output.weight":
        g.tensors.append([name, (DIM, 1 << 20 if name[0] == "t" else rows), F16, b""])
    g.offsets["opt.m.output.weight"] = sum(len(t[3]) for t in g.tensors) + (DIM * 2 << 20)
    head = g.build()
    with open(os.path.join(directory, "large.gguf"), "wb") as file:
        file.write(head)
        file.truncate(len(head) + 2 * DIM * ((1 << 20) + rows))


def unfinished(directory):
    return glob.glob(os.path.join(directory, "*.tmp-*"))


def begun(directory, words, number):
    """Starts a conversion, sends the signal as soon as there is an unfinished file, and waits."""
    large_model(directory)
    with open(os.path.join(directory, "OUT"), "wb") as file:
        file.write(b"old")
    child = subprocess.Popen(command_line(words, megabytes=2048), cwd=directory,
                             env=environment(1024),
                             stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + SECONDS
    while child.poll() is None and time.monotonic() < until and not unfinished(directory):
        time.sleep(0.001)
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    return subprocess.CompletedProcess(words, child.returncode, out, err)


def interrupted(words, number, directory):
    """After Ctrl-C and the like, what was there is still there, and nothing else."""
    done = begun(directory, words, number)
    if done.returncode == 0:
        return "it was finished before the signal came"
    left = unfinished(directory)
    with open(os.path.join(directory, "OUT"), "rb") as file:
        if file.read() != b"old":
            return "OUT is not what it was"
    if number == signal.SIGKILL:
        return None if done.returncode == -signal.SIGKILL else f"exit code {done.returncode}"
    if done.returncode not in (128 + number, -number) or left or b"Sanitizer" in done.stderr:
        return f"exit code {done.returncode}, expected {128 + number}; left behind: {left}; " \
               f"{short(done.stderr)}"
    return None


def generating(directory):
    """Ctrl-C ends generation with what was printed, and 130. There is no telling when it comes."""
    child = subprocess.Popen(command_line("run m.gguf -q -m chat -y s -n 2"), cwd=directory,
                             env=environment(),
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdin.write(b"a\n")
    child.stdin.flush()
    child.stdout.read(3)  # it is running, and now it waits for the next message
    time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=SECONDS)
    done = subprocess.CompletedProcess([], child.returncode, out, err)
    if broken(done) or done.returncode not in (0, 130):
        return broken(done) or f"exit code {done.returncode}: {short(err)}"
    return None


def cut_underfoot(directory):
    """Another process cuts the file that is mapped: an error, not a crash."""
    path = os.path.join(directory, "m.gguf")
    child = subprocess.Popen(command_line("run m.gguf -q -m chat -y s -n 2"), cwd=directory,
                             env=environment(),
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdin.write(b"a\n")
    child.stdin.flush()
    child.stdout.read(3)
    os.truncate(path, 0)
    out, err = child.communicate(b"a\n", timeout=SECONDS)
    return verdict(subprocess.CompletedProcess([], child.returncode, out, err), 1, ["changed"])


def signals():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored, and children inherit that
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL:
        name = signal.Signals(number).name
        yield act(f"{name} during convert", functools.partial(
            interrupted, "convert large.gguf OUT --keep-optimizer -q q8_0", number), FILES)
    yield act("SIGINT during convert -o hf", functools.partial(
        interrupted, "convert large.gguf OUT2 -o hf", signal.SIGINT), FILES)
    yield act("SIGINT during a chat", generating, FILES)
    yield act("the model cut short during a chat", cut_underfoot, FILES)


# ------------------------------------------------------------------------------------------- memory
def no_memory(directory):
    """A cache for 2^24 positions is more than a process may have: said, not a crash."""
    g = Gguf().set("llama.context_length", U32, 1 << 24)
    with open(os.path.join(directory, "m.gguf"), "wb") as file:
        file.write(g.build())
    env = environment(more=":allocator_may_return_null=1")
    done = subprocess.run(command_line("run m.gguf -q -i a"), cwd=directory, env=env,
                          capture_output=True,
                          timeout=SECONDS)
    if badinput_case.TOOL:  # which warns about what it refuses, before the program can
        done.stderr = done.stderr[max(done.stderr.rfind(b"error: "), 0):]
    return verdict(done, 1, ["out of memory"])


def cases():
    for group in paths, outputs, disks, signals:
        yield from group()
    yield act("no memory for the context", no_memory)
    yield accept("the same context, -c 64", "run m.gguf -i a -n 3 -c 64",
                 {"m.gguf": Gguf().set("llama.context_length", U32, 1 << 24).build()}, b"abcd\n")
