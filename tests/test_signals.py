#!/usr/bin/env python3
"""test_signals.py: Ctrl-C and Ctrl-D as a user presses them, at a terminal of our own. In a chat
Ctrl-C stops the answer, or throws the line away, and the chat goes on; elsewhere it ends the
program, quietly, with 130."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import tempfile
import termios
import time

from chat_model import write_model
from check import SCRATCH, check, check_equal, end, program, short, start

CTRL_C, CTRL_D = b"\x03", b"\x04"
SECONDS = 20  # far more than anything here takes


class Terminal:
    """A program whose stdin is a terminal; stdout and stderr are pipes."""

    def __init__(self, *arguments):
        self.keys, slave = pty.openpty()
        self.child = subprocess.Popen(
            [program("run"), *map(str, arguments)], stdin=slave, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, bufsize=0, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self.seen = {self.child.stdout: b"", self.child.stderr: b""}

    def type(self, keys):
        os.write(self.keys, keys)

    def until(self, ready):
        """Reads until ready(stdout, stderr) says so; False when the program ends before."""
        pipes, limit = list(self.seen), time.monotonic() + SECONDS
        while pipes and not ready(*self.seen.values()) and time.monotonic() < limit:
            for pipe in select.select(pipes, [], [], 1)[0]:
                more = os.read(pipe.fileno(), 65536)
                self.seen[pipe] += more
                if not more:
                    pipes.remove(pipe)
        return ready(*self.seen.values())

    def prompts(self, n):
        """Waits for the n-th `> `, where the program waits for a message."""
        return self.until(lambda out, err: err.count(b"> ") >= n)

    def finish(self):
        """(exit code, stdout, stderr)"""
        self.until(lambda out, err: False)
        try:
            code = self.child.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.child.kill()
            code = self.child.wait()
        os.close(self.keys)
        return code, *self.seen.values()


def test_chat():
    hello = start(program("run"), CHAT, "-m", "chat", "-n", 8, "-i", "hi").stdout
    screen = Terminal(CHAT, "-m", "chat", "-n", 8)
    check("a prompt", screen.prompts(1))
    for n, keys in enumerate((b"abc", b'"""\nabc\nd', b"abc\\\nd"), 1):
        before = screen.seen[screen.child.stderr].count(b"\n")
        screen.type(keys)
        time.sleep(0.3)  # until the lines are read; what is left is thrown away by the terminal
        screen.type(CTRL_C)
        check(f"Ctrl-C at the prompt after {keys!r}", screen.until(
            lambda out, err: err.count(b"\n") > before and err.endswith(b"> ")))
    screen.type(b"hi\n")
    check("and the next line is answered", screen.until(lambda out, err: len(out) >= len(hello)))
    screen.type(CTRL_D)
    code, out, _ = screen.finish()
    check_equal("nothing of what was thrown away was said; Ctrl-D ends it", (code, out),
                (0, hello))


def test_answer():
    screen = Terminal(CHAT, "-m", "chat", "-n", 0)
    screen.prompts(1)
    for turn in 1, 2:
        length = len(screen.seen[screen.child.stdout])
        screen.type(b"hi\n")
        check(f"an answer, {turn}", screen.until(lambda out, err: len(out) > length + 20))
        screen.type(CTRL_C)
        check(f"Ctrl-C stops it, {turn}", screen.prompts(turn + 1))
    screen.type(CTRL_D)
    check_equal("and Ctrl-D ends the program", screen.finish()[0], 0)


def test_quietly():
    """Elsewhere than in a chat."""
    with tempfile.NamedTemporaryFile(dir=SCRATCH) as file:
        file.write(b"for i in range(10):\n" * 10000)
        file.flush()
        for name, options in {"a long prompt": ["-b", 1, "-f", file.name],
                              "--perplexity": ["-b", 1, "--perplexity", file.name]}.items():
            screen = Terminal(CHAT, *options, "-c", 300000, "--no-echo")
            screen.until(lambda out, err: b"layers of" in err)
            time.sleep(0.5)
            begun = time.monotonic()
            screen.type(CTRL_C)
            code, out, err = screen.finish()
            check(f"Ctrl-C during {name}", code == 130 and not out.strip() and
                  b"error" not in err and time.monotonic() - begun < 10,
                  short((code, out, err)))
    screen = Terminal(CHAT, "-i", "-")
    time.sleep(0.5)
    screen.type(CTRL_C)
    code, out, err = screen.finish()
    check("Ctrl-C at -i -", code in (130, -signal.SIGINT) and not out and not err,
          short((code, out, err)))


def test_blocked():
    """A reader that does not read: the program waits in the middle of a write."""
    child = subprocess.Popen([program("run"), CHAT, "-i", "hi", "-n", "0", "-q"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, 4096)
    time.sleep(1.5)
    child.send_signal(signal.SIGINT)
    try:
        code = child.wait(SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        code = "none"
    check_equal("Ctrl-C with a full pipe", (code, child.stderr.read()), (130, b""))


os.makedirs(SCRATCH, exist_ok=True)
CHAT = write_model("signals.gguf", context=1000000, ends=0)
for test in (test_chat, test_answer, test_quietly, test_blocked):
    test()
end()
