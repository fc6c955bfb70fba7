#!/usr/bin/env python3
"""powerloss.py: the power fails at every call that changes a file.

A kill cannot show that an fsync is missing, because what was written stays in the kernel's memory.
So strace records what a writer does to the files in its directory, and the record is played back on
a disk of our own, which keeps for certain only what an fsync has asked for. After each call the
power may fail, and of what came since the last fsync there is then

    of the names (files made, renamed, removed): all, nothing, or some, by chance
    of the contents: all, nothing, or some blocks of 4 KB, by chance; zeros where a block is missing

From each such directory the next run starts. It must find old files or whole new ones, and end with
the right bytes; and what a program with exit code 0 has promised must be there when all is gone
that no fsync has asked for. OC_STATES says how many directories of each writer are tried (12;
make powerloss: 0, all), OC_SEED what chance does, and OC_MINUTES how long all of it may take.
[the idea: Pillai et al., All File Systems Are Not Created Equal, OSDI 2014]"""

import concurrent.futures
import os
import random
import re
import shutil
import subprocess

import crash
import torture
from check import SCRATCH, Watch, check, end, program, short, skip
from torture import prepare, start, tree

HOME = os.path.join(SCRATCH, f"powerloss-{os.getpid()}")
STATES = int(os.environ.get("OC_STATES", 12))
NO_PROCESS = 1 << 22  # on Linux, numbers are smaller
BLOCK = 4096
CALLS = "open,openat,creat,mkdir,mkdirat,rmdir,unlink,unlinkat,rename,renameat,renameat2,lseek," \
        "write,pwrite64,ftruncate,truncate,fsync,fdatasync,mmap,writev,pwritev,copy_file_range," \
        "sendfile,splice,fallocate,link,linkat,symlink,symlinkat"
# pid  call(arguments) = result; a name after a descriptor is in <>, and all text is in hexadecimal.
LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<((?:\\x..)*)>)?")
WORD = re.compile(r'(?:(\d+|AT_FDCWD)<((?:\\x..)*)>)|"((?:\\x..)*)"')


def bytes_of(text):
    return bytes.fromhex(text.replace("\\x", ""))


class File:
    """What a reader sees now, and what is on the disk for certain."""

    def __init__(self, content=b""):
        self.now, self.safe = bytearray(content), bytes(content)

    def write(self, at, data):
        self.now.extend(bytes(max(0, at + len(data) - len(self.now))))
        self.now[at:at + len(data)] = data

    def resize(self, size):
        self.now = self.now[:size] + bytes(max(0, size - len(self.now)))

    def after(self, what, noise):
        """Its content after the power has failed."""
        if what != "some":
            return bytes(self.now) if what == "all" else self.safe
        size = noise.choice([len(self.now), len(self.safe)])
        blocks = (noise.choice([self.now, self.safe])[at:at + BLOCK].ljust(BLOCK, b"\0")
                  for at in range(0, size, BLOCK))
        return b"".join(bytes(block) for block in blocks)[:size]


class Disk:
    """The files of a directory by their paths, those in it now and those that are there for
    certain; a directory in it is None. pending: what was done to names since the last fsync."""

    def __init__(self, directory):
        self.now, self.pending = {}, []
        for place, directories, files in os.walk(directory):
            for name in directories:
                self.now[os.path.relpath(os.path.join(place, name), directory)] = None
            for name in files:
                path = os.path.join(place, name)
                with open(path, "rb") as file:
                    self.now[os.path.relpath(path, directory)] = File(file.read())
        self.safe = dict(self.now)

    def change(self, old, new=None, file=None):
        """old is renamed new, or removed without a new; old None: new is made."""
        self.pending.append((old, new, file))
        apply(self.now, old, new, file)

    def sync(self, directory):
        stays = []
        for change in self.pending:
            if os.path.dirname(change[1] or change[0]) == directory:
                apply(self.safe, *change)
            else:
                stays.append(change)
        self.pending = stays

    def after(self, names, contents, noise):
        """What is found after the power has failed: content by path."""
        found = dict(self.safe)
        for change in self.pending:
            if names == "all" or names == "some" and noise.random() < 0.5:
                apply(found, *change)
        return {name: file and file.after(contents, noise) for name, file in found.items()
                if os.path.dirname(name) in ("", *found)}


def apply(names, old, new, file):
    if old is None:
        names[new] = file
        return
    for name in [n for n in names if n == old or n.startswith(old + "/")]:
        moved = names.pop(name)
        if new is not None:
            names[new + name[len(old):]] = moved


class Player:
    """Plays a record of strace back on a disk."""

    def __init__(self, disk, home):
        self.disk, self.home = disk, os.path.realpath(home)
        self.place, self.appends, self.begun = {}, set(), {}  # the first two by path and descriptor

    def inside(self, path, base=None):
        """A path relative to home, "" for home, or None for another place."""
        path = os.path.normpath(os.path.join(base or self.home, os.fsdecode(bytes_of(path))))
        return path[len(self.home) + 1:] if (path + "/").startswith(self.home + "/") else None

    def play(self, line):
        """One line; True if it has changed something."""
        pid, _, rest = line.partition(" ")
        if line.endswith("<unfinished ...>"):  # another thread's line follows
            self.begun[pid] = line[:-len(" <unfinished ...>")]
            return False
        if " resumed>" in rest:
            line = self.begun.pop(pid, "") + rest.partition(" resumed>")[2]
        found = LINE.match(line)
        if not found or int(found.group(4)) < 0:
            return False
        _, call, words, result, opened = found.groups()
        numbers = [int(n) for n in re.findall(r"(?:^|, )(-?\d+)(?=,|$)", words)]
        base, fd, paths, texts = None, None, [], []
        for number, name, text in WORD.findall(words):
            if number:
                fd, base = number, os.path.join(self.home, os.fsdecode(bytes_of(name)))
            else:
                texts.append(text)
                paths.append(self.inside(text, base))
        if call in ("open", "openat", "creat"):
            return self.open(self.inside(opened or ""), words, int(result))
        if fd and fd != "AT_FDCWD" and not paths or call in ("write", "pwrite64"):
            path = os.path.relpath(base, self.home)
            path = "" if path == "." else path
            return self.on_descriptor(call, path, int(fd), texts, numbers, int(result), words)
        return self.on_names(call, paths, numbers)

    def open(self, path, flags, fd):
        self.place[path, fd] = 0
        self.appends.discard((path, fd))
        if "O_APPEND" in flags:
            self.appends.add((path, fd))
        if not path or "O_CREAT" not in flags and "O_TRUNC" not in flags:
            return False
        if path not in self.disk.now:
            self.disk.change(None, path, File())
        elif "O_TRUNC" in flags:
            self.disk.now[path].resize(0)
        return True

    def on_descriptor(self, call, path, fd, texts, numbers, result, words):
        file = self.disk.now.get(path)
        if call == "lseek":
            self.place[path, fd] = result
        elif call in ("fsync", "fdatasync") and file:
            file.safe = bytes(file.now)
        elif call in ("fsync", "fdatasync") and (file or path == "" or path in self.disk.now):
            self.disk.sync(path)
        elif not file or call == "mmap" and not re.search("PROT_WRITE.*MAP_SHARED", words):
            return False
        elif call == "ftruncate":
            file.resize(numbers[-1])
        elif call in ("write", "pwrite64"):
            at = numbers[-1] if call == "pwrite64" else self.place.get((path, fd), 0)
            at = len(file.now) if (path, fd) in self.appends else at
            file.write(at, bytes_of(texts[0])[:result])
            self.place[path, fd] = at + result
        else:
            raise ValueError(f"{call} of {path}: cannot be played back")
        return call != "lseek"

    def on_names(self, call, paths, numbers):
        if not paths or paths[0] is None:
            return False
        if call in ("mkdir", "mkdirat"):
            self.disk.change(None, paths[0], None)
        elif call in ("rename", "renameat", "renameat2"):
            self.disk.change(*paths)
        elif call in ("unlink", "unlinkat", "rmdir"):
            self.disk.change(paths[0])
        elif call == "truncate":
            self.disk.now[paths[0]].resize(numbers[-1])
        else:
            raise ValueError(f"{call} of {paths}: cannot be played back")
        return True


def record(command, directory, log):
    """Runs it under strace; what it says is that of subprocess.run."""
    env = {**os.environ, "OMP_WAIT_POLICY": "passive", "LC_ALL": "C.UTF-8", "TMPDIR": HOME,
           "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}  # it traces, too
    strace = ["strace", "-f", "-y", "-xx", "-s", "100000000", "-o", log, "-e", f"trace={CALLS}"]
    return subprocess.run([*strace, os.path.abspath(program(command[0])), *command[1:]],
                          cwd=directory, env=env, capture_output=True, stdin=subprocess.DEVNULL)


def states(log, disk, directory, noise):
    """What may be found, without repetitions, and last what there is for certain at the end."""
    player, found = Player(disk, directory), {}
    with open(log, encoding="ascii") as file:
        for line in file:
            if not player.play(line.rstrip("\n")):
                continue
            for names in "all", "none", "some":
                for contents in "all", "none", "some":
                    state = disk.after(names, contents, noise)
                    found[hash(frozenset(state.items()))] = state
    return list(found.values()), disk.after("none", "none", noise)


def lay_out(state, directory):
    """A temporary file has the number of the process that wrote it, which a program on this machine
    may have again by now; here it gets one that no process has."""
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    for name in sorted(state):
        path = os.path.join(directory, re.sub(r"\.tmp-\d+", f".tmp-{NO_PROCESS}", name))
        if state[name] is None:
            os.makedirs(path, exist_ok=True)
        else:
            with open(path, "wb") as file:
                file.write(state[name])


def differing(found, right):
    return sorted(name for name in {*found, *right} if found.get(name) != right.get(name))


def wrong_with(state, scenario, before, right, directory):
    """What is wrong when the next run starts from a state, or None."""
    lay_out(state, directory)
    found = tree(directory)
    torn = crash.torn(before, found, right)
    if torn:
        return f"neither old nor new: {torn}"
    if all(found.get(name) == content for name, content in right.items()):
        return None  # there is nothing left to do
    done = start(scenario.again or scenario.command, directory)
    wrong = differing(tree(directory), right)
    shutil.rmtree(directory)
    return f"the next run: wrong are {wrong}, {short(done.stderr)}" if done.returncode or wrong \
        else None


def test(title, scenario, home, parts):
    directory, log = os.path.join(home, "right"), os.path.join(home, "log")
    noise = random.Random(os.environ.get("OC_SEED", "8") + title)
    prepare(scenario, directory)
    before, disk = tree(directory), Disk(directory)
    done = record(scenario.command, directory, log)
    right = tree(directory)
    if not check(f"{title}: is written", done.returncode == 0, short(done.stderr)):
        return
    found, last = states(log, disk, directory, noise)
    lay_out(last, os.path.join(home, "last"))
    check_last = differing(tree(os.path.join(home, "last")), right)
    check(f"{title}: is on the disk when the program has ended", not check_last, check_last)
    watch = Watch(f"{title}, directories", len(found), parts)
    chosen = noise.sample(found, min(STATES or len(found), len(found)))

    def one(number):
        if watch.over():
            return None
        problem = wrong_with(chosen[number], scenario, before, right,
                             os.path.join(home, str(number)))
        watch.step()
        return problem

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        wrong = [problem for problem in pool.map(one, range(len(chosen))) if problem]
    if not watch.done:
        skip(f"{title}: {len(found)} directories", "no time is left for them")
        return
    check(f"{title}: {watch.done} of {len(found)} directories after a power failure: the next run "
          "is right", not wrong, f"{len(wrong)} wrong, {wrong[:1]}")


def main():
    try:
        subprocess.run(["strace", "-f", "-o", os.devnull, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        skip("power failures", "strace: not installed, or not allowed here")
        end()
    os.makedirs(HOME)
    known = list(crash.writers())
    for number, (title, scenario) in enumerate(known):
        home = os.path.join(HOME, str(number))
        os.makedirs(home)
        test(title, scenario, home, len(known) - number)
    shutil.rmtree(HOME, ignore_errors=True)
    end()


if __name__ == "__main__":
    main()
