"""badinput_case.py: one case of badinput.py: what is run on which files, and what must happen.

A case gets a directory of its own, holding its files, and runs there. Three things can be expected:

    accept   exit code 0, the right text on stdout, no error, and no new files but those in `made`
    reject   exit code 1 (data) or 2 (command line), nothing on stdout, and on stderr one line that
             begins with "error: " and has all the given words in it: the file or option, what was
             found; afterwards the directory is as it was before, byte for byte
    act      a function that does it all and returns what is wrong, for signals, full disks, pipes

A signal, a sanitizer report, control characters in the message, more than a few seconds or more
memory than such small files justify is a failure whatever was expected."""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess

from check import SCRATCH, short

BIN = None  # where the programs are; badinput.py sets both
TOOL = ""
PLACE = os.path.join(SCRATCH, f"badinput-{os.getpid()}")
SECONDS = 5
MEGABYTES = 64  # for one allocation under a sanitizer; without one, 256 MB of address space in all
REPORT = re.compile(rb"ERROR: \w+Sanitizer.*|runtime error:.*|.*LeakSanitizer.*")


@dataclasses.dataclass
class Case:
    name: str
    command: object  # "run m.gguf -i a", or a list of words; several commands: "... && ..."
    files: dict  # name: bytes
    code: int = 0
    words: tuple = ()
    out: object = None  # bytes, a function that tells if the bytes are right, or None: whatever
    stdin: bytes = b""
    made: tuple = ()
    ulimit: str = ""  # for the shell's ulimit
    act: object = None  # function(directory) -> what is wrong, or None
    seconds: float = SECONDS
    begun: bool = False  # the error may come after lines that tell of a run
    may_change: tuple = ()  # files that may be others afterwards


def accept(name, command, files, out=None, **more):
    return Case(name, command, files, out=out, **more)


def reject(name, command, files, *words, code=1, out=b"", **more):
    return Case(name, command, files, code, words, out, **more)


def usage(name, command, *words, files=None, **more):
    """A command line that is refused for what it says: exit code 2."""
    return reject(name, command, files or {}, *words, "try -h", code=2, **more)


def act(name, function, files=None):
    return Case(name, None, files or {}, act=function)


def environment(megabytes=MEGABYTES, strict=True, more=""):
    """strict: a sanitizer walks each string that strtoll and the like are given to its end, which
    takes for ever where one text holds 100,000 numbers."""
    options = f"detect_leaks=1:strict_string_checks={int(strict)}:" \
           f"detect_stack_use_after_return=0:max_allocation_size_mb={megabytes}{more}"
    name = f"{(TOOL or 'asan').upper()}_OPTIONS"
    return {**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8",
            name: f"{os.environ.get(name, '')}:{options}", "UBSAN_OPTIONS": "print_stacktrace=1"}


def command_line(command, ulimit="", megabytes=4 * MEGABYTES):
    """The words to start, with the program's path and under a shell that sets limits."""
    words = shlex.split(command) if isinstance(command, str) else list(command)
    words[0] = os.path.join(BIN, words[0])
    limits = "" if TOOL else f"ulimit -v {megabytes * 1024}; "
    limits += f"ulimit {ulimit}; " if ulimit else ""
    return ["/bin/sh", "-c", limits + 'exec "$@"', "sh", *words] if limits else words


def start(command, directory, stdin=b"", ulimit="", seconds=SECONDS, strict=True, **more):
    """Runs one command to its end; TimeoutExpired if there is none."""
    if "stdout" not in more:
        more["stdout"] = subprocess.PIPE
    return subprocess.run(command_line(command, ulimit), cwd=directory, input=stdin,
                          stderr=subprocess.PIPE, timeout=seconds,
                          env=environment(strict=strict), **more)


def tree(directory):
    """What a directory holds: {name: bytes, or None for what is no regular file}."""
    found = {}
    for place, directories, files in os.walk(directory):
        for name in directories + files:
            path = os.path.join(place, name)
            regular = os.path.isfile(path) and not os.path.islink(path)
            content = None
            if regular:
                with open(path, "rb") as file:
                    content = file.read()
            found[os.path.relpath(path, directory)] = content
    return found


def broken(done):
    """What no outcome excuses: a signal, a sanitizer's report."""
    found = REPORT.search(done.stderr)
    if found:
        where = re.search(rb"#\d+ 0x\w+ in (\w+ \S+\.[ch]\S*)", done.stderr)
        return f"{found.group().decode()} {where.group(1).decode() if where else ''}"
    return f"ended by signal {-done.returncode}" if done.returncode < 0 else None


def one_error(stderr, words, begun=False):
    """What is wrong with the message of a refusal, or None."""
    lines = stderr.split(b"\n")
    if begun and sum(line.startswith(b"error: ") for line in lines) == 1:
        lines = lines[-2:]  # the error is the last line
    if len(lines) != 2 or lines[1] or not lines[0].startswith(b"error: "):
        return f"stderr is {short(stderr)}, expected one line: error: ..."
    if re.search(rb"[\0-\x1f\x7f]", lines[0]):
        return f"control characters in the message: {short(stderr)}"
    missing = [word for word in words if str(word).encode() not in lines[0]]
    return f"{short(stderr)} does not mention {missing}" if missing else None


def judge(case, done, before, after):
    """What is wrong with the outcome of the last command, or None."""
    if broken(done):
        return broken(done)
    if done.returncode != case.code:
        return f"exit code {done.returncode}, expected {case.code}: {short(done.stderr)}"
    if case.code and one_error(done.stderr, case.words, case.begun):
        return one_error(done.stderr, case.words, case.begun)
    if not case.code and b"error: " in done.stderr:
        return f"exit code 0 in spite of {short(done.stderr)}"
    right = case.out(done.stdout) if callable(case.out) else case.out in (None, done.stdout)
    if not right:
        wanted = "" if callable(case.out) else f", expected {short(case.out)}"
        return f"stdout is {short(done.stdout)}{wanted}"
    new = sorted(set(after) - set(before))
    if new != sorted(case.made):
        return f"left behind: {new}, expected {sorted(case.made)}"
    changed = [name for name in before
               if before[name] != after.get(name) and name not in case.may_change]
    return f"changed: {changed}" if changed else None


def run_case(case, number):
    """Runs one case in a fresh directory. Returns what is wrong, or None."""
    directory = os.path.join(PLACE, str(number))
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    for name, content in case.files.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    try:
        if case.act:
            return case.act(directory)
        before = tree(directory)
        commands = case.command.split(" && ") if isinstance(case.command, str) else [case.command]
        for command in commands[:-1]:
            done = start(command, directory, b"", case.ulimit, case.seconds)
            if done.returncode:
                return f"{command}: exit code {done.returncode}: {short(done.stderr)}"
        done = start(commands[-1], directory, case.stdin, case.ulimit, case.seconds)
        return judge(case, done, before, tree(directory))
    except subprocess.TimeoutExpired:
        return f"still running after {case.seconds} s"
    except OSError as error:
        return f"cannot be run: {error}"
    finally:
        shutil.rmtree(directory, ignore_errors=True)
