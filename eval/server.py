"""server.py: a Python that is warm: it has imported what programs import, and forks for each task.

sandbox.h's python_check sends a message over the socket, descriptor 3, with the descriptors that
the child is to have; the server forks, waits for the child, and sends back how it ended. No program
runs in the server itself. A child cannot fork, and has neither the socket nor anything else of it;
still, a server whose child did not simply end is not used again."""

import array
import gc
import os
import resource
import sys
import _socket
# For the programs: an import is then a look-up, where it may be 30 ms of reading.
import bisect, copy, functools, hashlib, heapq, itertools, math, operator, random, re, string
import typing

CONTROL = 3


def limit_self(memory, seconds):
    """For a child: the kernel's limits, which only go down."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def forks_are_refused():
    """Whether a limit of 0 processes holds here: tried, in a child."""
    child = os.fork()
    if child == 0:
        try:
            limit_self(1 << 30, 1)
            if os.fork() == 0:
                os._exit(0)
            os._exit(1)
        except OSError:
            os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def receive(control):
    """The next message: its words and its descriptors."""
    data, ancillary, _, _ = control.recvmsg(64, _socket.CMSG_SPACE(4 * 4))
    fds = array.array("i")
    for _, _, more in ancillary:
        fds.frombytes(more)
    return data.split(), list(fds)


def serve(packages):
    control = _socket.socket(fileno=CONTROL)
    sys.argv[1:] = []
    sys.path[:] = [path for path in sys.path if path]  # -c puts the working directory there
    control.send(b"ready %d" % forks_are_refused())
    gc.collect()
    gc.freeze()
    while True:
        words, fds = receive(control)
        if not words:
            os._exit(0)
        child = os.fork()
        if child == 0:
            control.close()
            run = run_worker if words[0] == b"worker" else run_checker
            run(fds, int(words[1]), int(words[2]), *([packages] if run is run_checker else []))
        for fd in fds:
            os.close(fd)
        control.send(b"%d" % os.waitpid(child, 0)[1])


serve(sys.argv[1])
