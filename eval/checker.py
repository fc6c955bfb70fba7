"""checker.py: runs the tests of a task, with the candidate's functions on the other side of the
pipe. What is written in the task file is trusted; what comes over the pipe is not."""

import ast
import os
import sys
import types

# What becomes of a task; the numbers of enum PY_* in sandbox.h, and one for a worker that is gone.
PASSED, WRONG, EXCEPTION, TIMEOUT, MEMORY, SYNTAX, CHEATED, FAILED, GONE = range(9)


class Verdict(BaseException):
    def __init__(self, kind, text):
        self.kind, self.text = kind, text


class Checker(Peer):
    """Serves a worker only what the tests have given it: their functions can be called, their
    iterators advanced, and of instances of their classes the public attributes be used. From other
    attributes (of a function, a frame, a generator) there is a way to the expected values."""

    def may_name(self, value):
        return getattr(builtins, value.__name__, None) is value

    def perform(self, what, target, *args):
        target = decode(self, target)
        args = [decode(self, arg) for arg in args]
        if what == "call" and callable(target):
            return (encode(self, target(*args[0], **args[1])),)
        if what == "next" and hasattr(target, "__next__"):
            return (encode(self, tuple([value for _, value in zip("1", target)])),)
        if what == "iter" and hasattr(target, "__next__"):
            return (self.own(target),)
        if type(target).__module__ == "tests" and type(args[0]) is str and args[0][:1] != "_":
            if what == "get":
                return (encode(self, getattr(target, args[0])),)
            if what == "set":
                return (encode(self, setattr(target, *args)),)
        raise TypeError(f"a {type(target).__name__} of the tests does not allow that")


def compile_part(source, name):
    try:
        return compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise Verdict(FAILED, f"{name[1:-1]}: {error}")


def free_names(tests, known):
    """The names that the tests use and nobody has defined: the candidate's."""
    used, bound = set(), set(known)
    for node in ast.walk(ast.parse(tests)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return used - bound - set(dir(builtins))


def failed_line(error, tests):
    """The line of the tests that an exception comes from."""
    trace, line = error.__traceback__, 0
    while trace:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            line = trace.tb_lineno
        trace = trace.tb_next
    lines = tests.splitlines()
    return lines[line - 1].strip() if 0 < line <= len(lines) else "the tests"


def run_tests(code, module, tests):
    try:
        exec(code, module.__dict__)
    except Exception as error:
        text = getattr(error, "remote", None)
        if isinstance(error, MemoryError):
            raise Verdict(MEMORY, text or "MemoryError")
        if text is None and isinstance(error, AssertionError):
            raise Verdict(WRONG, failed_line(error, tests))
        raise Verdict(EXCEPTION, text or f"{type(error).__name__}: {describe(error)[1]}")
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        raise Verdict(FAILED, f"the tests end in {type(error).__name__}")


def check(peer, program, setup, tests, entry, packages):
    """Raises the Verdict on a program."""
    if not tests.strip():
        raise Verdict(FAILED, "tests: there are none")
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    if packages and "numpy" in setup + tests:
        sys.path.append(packages)
    setup_code, code = compile_part(setup, "<setup>"), compile_part(tests, "<tests>")
    try:
        exec(setup_code, module.__dict__)
    except Exception as error:
        raise Verdict(FAILED, f"setup: {type(error).__name__}: {error}")
    wanted = free_names(tests, module.__dict__) | ({entry} if entry else set())
    try:
        names = peer.ask("load", program, sorted(wanted), packages)
    except Exception as error:
        text = getattr(error, "remote", type(error).__name__)
        raise Verdict(MEMORY if isinstance(error, MemoryError) else EXCEPTION, text)
    if type(names) is str:
        raise Verdict(SYNTAX, names)
    if type(names) is not dict or not wanted.issuperset(names):
        peer.fail("an answer that is no list of names")
    module.__dict__.pop(entry, None)
    module.__dict__.update(names)
    run_tests(code, module, tests)
    if peer.broken:
        raise Broken(peer.broken)
    raise Verdict(PASSED, "")


def read_task(fd):
    """The parts of a task: a line with their sizes, then the parts."""
    with open(fd, "rb") as file:
        sizes = [int(size) for size in file.readline().split()]
        return [file.read(size) for size in sizes]


def run_checker(fds, memory, seconds, packages):
    """The life of a checker. fds: the task, the worker's answers, the questions, the verdict."""
    limit_self(memory, seconds)
    program, *trusted = read_task(fds[0])
    peer = Checker(fds[1], fds[2])
    try:
        setup, tests, entry = [part.decode() for part in trusted]
        try:
            program = program.decode()
        except UnicodeDecodeError as error:
            raise Verdict(SYNTAX, str(error))
        check(peer, program, setup, tests, entry, packages)
    except Verdict as verdict:
        kind, text = verdict.kind, verdict.text
    except Broken as error:
        kind, text = (GONE if str(error) == "ended" else CHEATED), str(error)
    except BaseException as error:  # by an answer, if there has been one
        kind = CHEATED if peer.asked else FAILED
        text = f"checker: {type(error).__name__}: {describe(error)[1]}"
    line = f"{kind}\n{text}".encode(errors="backslashreplace")[:1000]
    os.write(fds[3], line)
    os._exit(0)
