"""kitchen.py: where the stages work: starts programs, keeps what they print, knows what is done.

What to know first: everything lies in build/cookbook/PLAN/. A stage works in STAGE.part/, which is
renamed to STAGE/ when all of it is there; inside, stamp.json says what it was made from (`key`, a
hash of the plan's section, of the stages before and of files from outside), how long that took,
which commands were run and what was counted. A stage whose stamp still fits is not done again; a
model that no longer fits is kept in STAGE.old/. So the same command goes on where the last one
stopped, whatever stopped it."""

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

from plan import ROOT


class CookError(Exception):
    """A stage cannot go on; the text is one line."""


LONG = 600  # seconds of training that are not thrown away without being asked


class Stopped(Exception):
    """Somebody pressed Ctrl-C, or the machine goes down."""


def write_text(path, text):
    """All of a file or nothing of it."""
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".tmp", path)


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_file(path):
    """Of the bytes of a file; an error names it."""
    total = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                total.update(block)
    except OSError as error:
        raise CookError(f"{path}: {error.strerror}, expected a file") from error
    return total.hexdigest()


def read_word(path):
    """What a small file holds; "" where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def record_seconds(folder):
    """How long the training in a stage's folder took by its own record, which is there even where
    all was killed; 0 where nothing is trained. Seconds begin anew where it was resumed."""
    total = last = 0.0
    lines = read_word(os.path.join(folder, "model.bin.csv")).split("\n")
    names = lines[0].split(",")
    for line in lines[1:] if "seconds" in names else []:
        cells = line.split(",")
        seconds = float(cells[names.index("seconds")]) if len(cells) == len(names) else last
        total += seconds - last if seconds >= last else seconds
        last = seconds
    return total


class Kitchen:
    def __init__(self, plan, place, dry):
        self.plan, self.place, self.dry = plan, place, dry
        self.stage, self.child, self.commands, self.lock = None, None, [], None
        self.order = []  # the stages of this run so far
        self.folders = {}  # of stages whose directory has another name than they
        if not dry:
            os.makedirs(os.path.join(ROOT, self.place), exist_ok=True)

    # ---------------------------------------------------------------------------- where things are
    def path(self, stage, *names):
        """A file of a stage, relative to the root, where every program is started."""
        part = ".part" if stage == self.stage else ""
        return os.path.join(self.place, self.folder(stage) + part, *names)

    def folder(self, stage):
        return self.folders.get(stage, stage)

    def here(self, *names):
        return self.path(self.stage, *names)

    def lock_place(self):
        """Two cooks in one kitchen would write over each other's files."""
        self.lock = open(os.path.join(ROOT, self.place, "lock"), "w", encoding="utf-8")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CookError(f"{self.place}: another `make cookbook` is at work here, expected one "
                            "at a time") from error

    def stamp(self, stage):
        """What is written of a finished stage, or None."""
        try:
            path = os.path.join(ROOT, self.place, self.folder(stage), "stamp.json")
            with open(path, encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError):
            return None

    def stamps(self):
        """{stage: what is written of it} of the plan's finished stages, in their order."""
        found = {stage: self.stamp(stage) for stage in self.order if stage != self.stage}
        return {stage: stamp for stage, stamp in found.items() if stamp}

    # ---------------------------------------------------------------------------- starting programs
    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def show(self, words, out=None):
        """A command as one would type it, with the names that files have in the end."""
        line = shlex.join(str(word) for word in words) + (f" > {shlex.quote(out)}" if out else "")
        line = line.replace(".part/", "/")
        self.commands.append(line)
        if self.dry:
            print(line, flush=True)
        else:
            self.say(f"$ {line}")

    def run(self, *words, out=None, within=None):
        """Runs a command and returns what it printed, which also goes to stderr and STAGE/log.txt;
        with `out`, its standard output goes to that file instead. `within`: seconds after which it
        is asked to stop, as by Ctrl-C, and ending so is no failure."""
        words = [str(word) for word in words]
        self.show(words, out)
        if self.dry:
            return ""
        target = open(os.path.join(ROOT, out + ".tmp"), "wb") if out else None
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "LC_ALL": "C.UTF-8"}
        try:
            self.child = subprocess.Popen(
                words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                pass_fds=[self.lock.fileno()],  # a child that outlives us keeps others out
                stdout=target or subprocess.PIPE,
                stderr=subprocess.PIPE if target else subprocess.STDOUT)
        except OSError as error:
            raise CookError(f"{words[0]}: {error.strerror}, expected a program; "
                            "`make all refine` builds ours") from error
        text, stopped, late = self.follow(within)
        if target:
            target.close()
        if stopped:
            raise Stopped
        code = self.child.returncode
        if code and not (late and code in (130, -signal.SIGTERM)):
            last = text.strip().splitlines()[-1:] or ["nothing on stderr"]
            raise CookError(f"{self.stage}: {words[0]} ended with exit code {code}: {last[0]}")
        if target:
            os.replace(os.path.join(ROOT, out + ".tmp"), os.path.join(ROOT, out))
        return text

    def follow(self, within):
        """Passes on what the child prints until it ends: (text, stopped by hand, out of time).
        Ctrl-C reaches the child too, which then ends by itself; it is only waited for."""
        kept, stopped, late = [], False, []
        stream = self.child.stderr or self.child.stdout
        timer = None
        if within is not None:
            timer = self.alarm(within, late)
        with open(os.path.join(ROOT, self.here("log.txt")), "ab") as log:
            while True:
                try:
                    line = stream.readline()
                except KeyboardInterrupt:
                    stopped = True
                    continue
                if not line:
                    break
                log.write(line)
                log.flush()
                kept.append(line.decode(errors="replace"))
                sys.stderr.write(kept[-1])
                del kept[:-400]  # what is looked for stands at the end
        while True:
            try:
                self.child.wait()
                break
            except KeyboardInterrupt:
                stopped = True
        if timer:
            timer.cancel()
        return "".join(kept), stopped, bool(late)

    def alarm(self, seconds, late):
        """Ends the child's work after so many seconds, as Ctrl-C would; a shell starts what is in
        the background with SIGINT ignored, so it is SIGTERM."""
        def ring():
            late.append(True)
            self.child.send_signal(signal.SIGTERM)
        timer = threading.Timer(max(seconds, 0.1), ring)
        timer.daemon = True
        timer.start()
        return timer

    def do(self, what, function, *arguments):
        """A step that is Python's: named like a command, not done in a dry run."""
        self.commands.append(f"# {what}".replace(".part/", "/"))
        if self.dry:
            print(self.commands[-1], flush=True)
            return None
        self.say(self.commands[-1])
        return function(*arguments)

    # ---------------------------------------------------------------------------- one stage
    def refuse_to_redo(self, keys):
        """Ends the run before it begins, if it would train anew what took long: a changed plan may
        mean that, a forgotten option does not."""
        for name, key in keys.items():
            final, part = (os.path.join(ROOT, self.place, name + end) for end in ("", ".part"))
            stamp, seconds = self.stamp(name), 0.0
            if stamp and stamp["key"] != key and record_seconds(final):
                seconds = stamp["seconds"]
            if read_word(os.path.join(part, "key")) != key and record_seconds(part):
                seconds = max(seconds, self.spent(part))
            if seconds > LONG:
                raise CookError(
                    f"{self.place}/{name}: {seconds / 60:.0f} minutes of training do not fit the "
                    "plan any more, expected its sections and options as they were; --redo (make "
                    "REDO=1) trains again")

    def cook(self, name, key, function):
        """Does a stage, unless its stamp has this key; returns whether it was done now."""
        self.order.append(name)
        final, part = (os.path.join(ROOT, self.place, self.folder(name) + end)
                       for end in ("", ".part"))
        if self.dry:
            print(f"\n# {name}")
            self.stage, self.commands = name, []
            function(self)
            self.stage = None
            return True
        stamp = self.stamp(name)
        if stamp and stamp["key"] == key:
            self.say(f"{name}: done before, {stamp['seconds']:.0f} s")
            return False
        self.prepare(part, key)
        if os.path.exists(os.path.join(part, "stamp.json")):  # stopped before it was renamed
            self.put_in_place(part, final)
            return True
        self.say(f"\n{name}")
        self.stage, self.commands = name, []
        begun, before = time.time(), self.spent(part)
        try:
            figures = function(self) or {}
        finally:
            seconds = before + time.time() - begun
            write_text(os.path.join(part, "seconds"), f"{seconds:.1f}\n")
        write_text(os.path.join(part, "stamp.json"), json.dumps(
            {"key": key, "seconds": seconds, "ended": int(time.time()), "commands": self.commands,
             "figures": figures}, indent=1) + "\n")
        self.stage = None
        self.put_in_place(part, final)
        self.say(f"{name}: {seconds:.1f} s")
        return True

    @staticmethod
    def put_in_place(part, final):
        if os.path.exists(os.path.join(final, "model.bin")):  # maybe hours of work
            shutil.rmtree(final + ".old", ignore_errors=True)
            os.rename(final, final + ".old")
        shutil.rmtree(final, ignore_errors=True)
        os.rename(part, final)

    @staticmethod
    def spent(part):
        """Seconds of work in a stage that was stopped."""
        return max(float(read_word(os.path.join(part, "seconds")) or 0), record_seconds(part))

    @staticmethod
    def prepare(part, key):
        """STAGE.part/ as it was left, if that was work on the same; else an empty one."""
        if read_word(os.path.join(part, "key")) != key:
            shutil.rmtree(part, ignore_errors=True)
            os.makedirs(part)
            write_text(os.path.join(part, "key"), key + "\n")
