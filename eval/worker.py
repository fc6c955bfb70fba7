"""worker.py: runs the candidate's program and does what the checker asks. Nothing here is trusted
once the program has been started: it shares the process, and may do to it what it likes."""

import os
import sys
import types

EXIT_MEMORY = 3  # as in python.c


class Worker(Peer):
    """Answers the checker. Any built-in may be named to it, and any object of its own."""

    def named(self, name):
        return getattr(builtins, name)

    def perform(self, what, *args):
        if what == "call":
            return self.call(*args)
        args = [decode(self, arg) for arg in args]
        result = OPERATIONS[what](*args)
        if what == "iter":
            return (self.own(result),)
        return (encode(self, result),)

    def call(self, function, args, keywords):
        """Calls, and tells which arguments the candidate has changed in place."""
        function, keywords = decode(self, function), decode(self, keywords)
        values = decode(self, args)
        result = encode(self, function(*values, **keywords))
        changes = []
        for i, value in enumerate(values):
            if isinstance(value, CHANGING):
                new = encode(self, value)
                if new != args[i + 1]:
                    changes.append([i, new])
        return result, changes


def load(program, wanted, packages):
    """Runs the program as the module `candidate`: the values of the wanted names it then has, or
    the text of a syntax error."""
    module = types.ModuleType("candidate")
    sys.modules["candidate"] = module
    if packages and "numpy" in program:
        sys.path.append(packages)
    try:
        code = compile(program, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    exec(code, module.__dict__)
    return {name: module.__dict__[name] for name in wanted if name in module.__dict__}


def put_item(target, key, value):
    target[key] = value


def take_next(iterator):
    for value in iterator:
        return (value,)
    return ()


OPERATIONS = {
    "load": load, "get": getattr, "set": setattr, "put": put_item, "iter": iter,
    "item": lambda target, key: target[key], "next": take_next, "len": len, "bool": bool,
    "str": str, "repr": repr,
}


def run_worker(fds, memory, seconds):
    """The life of a worker: it ends when the checker does."""
    limit_self(memory, seconds)
    worker = Worker(*fds)
    sys.setrecursionlimit(1020)  # what stands between here and the program is not the program's
    try:
        while True:
            kind, *message = worker.receive()
            worker.answer(*message)
    except Broken:
        os._exit(0)
    except MemoryError:
        os._exit(EXIT_MEMORY)
