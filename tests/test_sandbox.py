#!/usr/bin/env python3
"""test_sandbox.py: what must not get out of the sandbox.

Every attack of attacks.py runs in every kind of box: in python_check's worker and under the
profiles strict, build and shell; as root, as an ordinary user, and where namespaces are refused.
Afterwards nothing may be left: no process, no file, no mount, no shared memory. With too little
protection nothing may run at all. Forged answers are in test_pycheck.py.

The programs run in build/sandbox, one line each. What this machine lacks is skipped with a line."""

import ctypes
import inspect
import os
import re
import socket
import subprocess
import threading
import time

import attacks
from check import check, check_equal, skip
from sandbox_driver import NAMESPACES, SECRET, for_each_user, run_lines, start


class Outside:
    """Things outside of the box that an attack may reach, and whether it has."""

    def __init__(self, directory, label):
        self.touched = []
        self.canary = os.path.join(directory, "canary")
        with open(self.canary, "w") as file:
            file.write("untouched")
        os.chmod(self.canary, 0o666)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(self.tcp.getsockname())
        self.unix = socket.socket(socket.AF_UNIX)
        self.name = f"sandbox-test-{os.getpid()}-{label}"
        self.unix.bind("\0" + self.name)
        self.unix.listen()
        for link in (self.tcp, self.udp, self.unix):
            threading.Thread(target=self.listen, args=(link,), daemon=True).start()

    def listen(self, link):
        link.recv(1) if link is self.udp else link.accept()
        self.touched.append(link.getsockname())


def adopt():
    """From now on what loses its parent, anywhere beneath this process, becomes a child of it."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")")[1].split()[0] not in "ZX"
    except OSError:
        return False


def children():
    """Those that are alive, after some time for the killed ones to end."""
    for _ in range(20):
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            found = [pid for pid in file.read().split() if alive(pid)]
        if len(found) <= 1:
            break
        time.sleep(0.05)
    return found


def left_files():
    """What the attacks call the files that they try to leave."""
    names = re.compile(r"full\d+.*|huge|sparse|file\d+|link|own|bit|disk|planted.py|left|"
                       r"sandbox-(?!test).*")
    return [os.path.join(place, name) for place in ("/", "/tmp", "/var/tmp", "/dev/shm")
            for name in os.listdir(place) if names.fullmatch(name)]


def shared_memory():
    try:
        return [line for line in open("/proc/sysvipc/shm") if line.split()[0] == str(0x5a4d)]
    except OSError:
        return []


def attack_lines(python, targets, profiles):
    """A line for each attack in each profile where it is one."""
    head = inspect.getsource(attacks).partition("\n# -----")[0]
    head += f"\nTARGETS.update({targets!r})\n"
    names, lines = [], []
    for name, (function, allowed) in attacks.ATTACKS.items():
        text = head + inspect.getsource(function)
        seconds = 0.2 if name in attacks.ENDLESS else 3
        for profile in profiles:
            if profile in allowed:
                continue
            names.append(f"{profile} {name}")
            if profile == "python":
                lines.append({"program": text, "tests": f"assert {name}() is True",
                              "seconds": seconds, "memory": 1 << 28})
            else:
                main = f"\nprint('THROUGH' if {name}() is True else 'held')\n"
                lines.append({"argv": [python, "-S", "-B", "attack.py"], "profile": profile,
                              "files": {"attack.py": text + main}, "seconds": seconds,
                              "memory": 1 << (27 if profile in attacks.BUILDS else 28)})
    return names, lines


def got_through(result, seconds):
    if "verdict" in result:
        return result["verdict"] in ("passed", "failed")  # a box that fails proves nothing
    late = result["seconds"] > seconds + 1.5 or len(result["out"]) > 1 << 16
    return "THROUGH" in result["out"] or late or result["reason"] == "failed"


def run_attacks(label, outside, program, options, user, profiles):
    """Every attack in every profile, then what is left of them."""
    uid = os.geteuid() if user is None else user
    victim = subprocess.Popen(["sleep", "300"], preexec_fn=lambda: os.setuid(uid))
    about, _ = run_lines(program, [], options, user)
    if not about["python"]:
        victim.kill()
        return skip(label, "no python3 that this user can start")
    if not about["enough_to_build"]:
        profiles = [profile for profile in profiles if profile == "python"]
    targets = {"port": outside.tcp.getsockname()[1], "abstract": outside.name,
               "canary": outside.canary, "victim": victim.pid, "parent": os.getpid(),
               "secret": SECRET}
    mounts = open("/proc/self/mounts").read()
    names, lines = attack_lines(about["python"], targets, profiles)
    _, results = run_lines(program, lines, options, user)
    through = [f"{name}: {result.get('message')}" for name, line, result
               in zip(names, lines, results) if got_through(result, line["seconds"])]
    check_equal(f"{label}: {len(names)} attacks in {', '.join(profiles)}", through, [])
    check_equal(f"{label}: no process is left", children(), [str(victim.pid)])
    check_equal(f"{label}: no file is left", left_files(), [])
    check_equal(f"{label}: no shared memory is left", shared_memory(), [])
    check(f"{label}: no mount is left", open("/proc/self/mounts").read() == mounts, "mounts differ")
    check(f"{label}: the victim lives", victim.poll() is None, "it was killed")
    check(f"{label}: the canary is untouched", open(outside.canary).read() == "untouched")
    check_equal(f"{label}: no connection has come", outside.touched, [])
    victim.kill()
    victim.wait()


def run_refusals(label, program, user):
    """Too little protection: nothing is run unless it is asked for."""
    done = start(program, ["--without=255"], user)
    check(f"{label}: refuses to run unprotected", done.returncode == 1 and
          done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1, done.stderr)
    about, results = run_lines(program, [PAIR, HERE], ("--without=255", "--unsafe"),
                               user)
    check(f"{label}: --unsafe runs", results[0]["verdict"] in ("passed", "failed") and
          results[1]["out"] == "here\n", results)
    check(f"{label}: says what is missing", "missing: " in about["text"], about["text"])
    _, results = run_lines(program, [HERE], (f"--without={NAMESPACES}",), user)
    check_equal(f"{label}: no jobs without namespaces", results[0]["reason"], "failed")


FORKS = """import os, time
children = 0
for _ in range(200):
    try:
        if not os.fork():
            time.sleep(1000)
        children += 1
    except BlockingIOError:
        pass
print(children)"""


def run_process_limit(label, program, options, user):
    """Four boxes at once, each with 64 processes and no more; memory is not what stops them."""
    python = run_lines(program, [], options, user)[0]["python"]
    if python:
        line = {"argv": [python, "-c", FORKS], "profile": "shell", "memory": 8 << 30}
        _, results = run_lines(program, [line] * 4, options, user)
        check_equal(f"{label}: a box has 64 processes", [r["out"] for r in results], ["63\n"] * 4)


PAIR = {"program": "def f(): return 1", "tests": "assert f() == 1"}
HERE = {"argv": ["/bin/sh", "-c", "echo here"], "profile": "shell"}


def run_all(label, program, user):
    outside = Outside(os.path.dirname(program), label)
    run_attacks(label, outside, program, (), user, ["python", "strict", "build", "shell"])
    run_process_limit(label, program, (), user)
    if label == "root":
        run_attacks("root, no user namespace", outside, program, ("--without=1",), user, ["shell"])
        run_process_limit("root, no user namespace", program, ("--without=1",), user)
    run_attacks(f"{label}, no namespaces", outside, program, (f"--without={NAMESPACES}",), user,
                ["python"])
    run_refusals(label, program, user)


if __name__ == "__main__":
    adopt()
    for_each_user(run_all)
