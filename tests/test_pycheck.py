#!/usr/bin/env python3
"""test_pycheck.py: programs in the sandbox are judged rightly: forged answers are never counted,
and what fits its tests is; jobs end as they should, within their limits, and bring out their files.

Every program of forgeries.py meets several forms of test. What this machine lacks is skipped with a
line. The attacks on the sandbox itself are in test_sandbox.py."""

from check import check, check_equal, skip
from forgeries import FORGERIES, TESTS
from sandbox_driver import for_each_user, run_lines


def run_forgeries(label, program, user):
    names, lines = [], []
    for name, source in FORGERIES:
        # Who breaks the protocol never gets to the tests, and who runs it makes no difference.
        few = user is not None or "speak(" in source
        for number, tests in enumerate(TESTS[:2] if few else TESTS):
            names.append(f"{name}, test {number}")
            lines.append({"program": source, "tests": tests, "seconds": 0.4})
    honest = "def answer(x, *more):\n    return x + 38\n"
    for number, tests in enumerate(TESTS):
        names.append(f"honest, test {number}")
        lines.append({"program": honest, "tests": tests})
    _, results = run_lines(program, lines, (), user)
    wrong = [f"{name}: {result}" for name, result in zip(names, results)
             if (result["verdict"] == "passed") != name.startswith("honest")
             or result["verdict"] == "failed"]
    check_equal(f"{label}: {len(FORGERIES)} forgeries, {len(names)} times", wrong, [])


# Programs and tests that fit each other: (name, setup, program, tests, verdict).
PAIRS = [
    ("floats", "", "def f(x): return x / 3", "assert abs(f(1) - 0.333) < 1e-3", "passed"),
    ("every kind of value", "", "def f(x): return x", """
from decimal import Decimal; from fractions import Fraction; from collections import *
import datetime
for x in (None, True, 1, -1, 10 ** 50, 10 ** 5000, -10 ** 9999, 1.5, -0.0, float("inf"), 1e300,
          2 + 3j, "", "a\\n\\0\\udc80\u00e9\U0001f600", b"\\0\\xff", bytearray(b"x"), (), (1,),
          [], [1, [2]],
          {}, {1: {2: 3}, "a": [()], (1, 2): None}, set(), {1, (2, 3)}, frozenset([1]), range(5),
          range(10 ** 20, 0, -7), Decimal("1.10"), Fraction(1, 3), deque([1, 2], 5),
          Counter("hello"),
          OrderedDict(a=1, b=2), datetime.date(2024, 2, 29), datetime.time(1, 2, 3, 4),
          datetime.datetime(2024, 1, 2, 3, 4, 5, 6), datetime.timedelta(-1, 5, 7), ..., int, list):
    assert f(x) == x and type(f(x)) is type(x) and f([x]) == [x], x
assert str(f(-0.0)) == "-0.0" and f(float("nan")) != f(float("nan"))
assert list(f(OrderedDict(b=1, a=2))) == ["b", "a"] and f(deque([1], 5)).maxlen == 5
""", "passed"),
    ("subclasses become their base", "", """
from collections import namedtuple, defaultdict
import enum
class Size(enum.IntEnum): BIG = 3
Point = namedtuple("Point", "x y")
def f():
    d = defaultdict(list)
    d[1].append(2)
    return Point(1, 2), Size.BIG, d, True
""", "assert f() == ((1, 2), 3, {1: [2]}, True) and type(f()[0]) is tuple", "passed"),
    ("arguments changed in place", "", """
def f(a, d, s, b):
    a.sort(); a[1].append(9); d["x"] = a[0]; s.discard(1); b += b"!"
""", """
inner = [5]
a, d, s, b = [inner, [1]], {}, {1, 2}, bytearray(b"hi")
assert f(a, d, s, b) is None
assert a == [[1], [5, 9]] and d == {"x": [1]} and s == {2} and b == b"hi!"
""", "passed"),
    ("functions as arguments", "", """
def f(g, xs): return [g(x) for x in xs]
def twice(g): return lambda x: g(g(x))
""", """
assert f(lambda x: x * 2, [1, 2]) == [2, 4] and f(str, [1]) == ["1"]
assert f(str.upper, ["a"]) == ["A"] and twice(lambda x: x + 3)(1) == 7 and f(f, []) == []
calls = []
assert f(calls.append, [1, 2]) == [None, None] and calls == [1, 2]
""", "passed"),
    ("a call in a call in a call", "", "def f(g, n): return g(n - 1) if n else 0", """
def g(n): return 1 + f(g, n)
assert f(g, 20) == 20
""", "passed"),
    ("keywords and defaults", "", "def f(a, b=2, *c, d=4, **e): return a, b, c, d, e",
     "assert f(1, d=5, z=[1]) == (1, 2, (), 5, {'z': [1]})", "passed"),
    ("an exception that is wanted", "", "def f(x): raise ValueError('no ' + x)", """
try:
    f("way")
    assert False
except ValueError as error:
    assert str(error) == "no way"
""", "passed"),
    ("an exception of its own", "", "class E(KeyError): pass\ndef f(): raise E(1)", """
try:
    f()
except LookupError:
    pass
else:
    assert False
""", "passed"),
    ("generators and iterators", "", """
def f(n):
    for i in range(n): yield i
def g(): return map(str, [1, 2])
def h(xs): return sum(xs)
""", """
assert list(f(3)) == [0, 1, 2] and list(g()) == ["1", "2"] and next(f(1)) == 0
assert h(x for x in [1, 2]) == 3 and h(iter([4])) == 4
assert sorted(f(2), reverse=True) == [1, 0]
""", "passed"),
    ("objects of the program", "", """
class Node:
    count = 0
    def __init__(self, value): self.value, self.left = value, None; Node.count += 1
    def total(self): return self.value + (self.left.total() if self.left else 0)
    def __len__(self): return self.total()
    def __getitem__(self, i): return self.value * i
def f(node): return node.total()
""", """
root = Node(1)
root.left = Node(2)
assert f(root) == root.total() == 3 and root.left.value == 2 and Node.count == 2
assert len(root) == 3 and root[5] == 5 and f(node=root) == 3
assert root == root and root != root.left and root.left == root.left
""", "passed"),
    ("objects of the tests", "class Box:\n    def __init__(self, x): self.x = x\n"
     "    def get(self): return self.x\n",
     "def f(b):\n    b.x += 1\n    return b.get()", "b = Box(1)\nassert f(b) == 2 and b.x == 2",
     "passed"),
    ("two functions and a helper of the setup", "def helper(x): return x + 1\ndef f(x): pass\n",
     "def f(x): return x + 1\ndef g(x): return f(x) - 1\ndef helper(x): return None",
     "assert f(1) == helper(1) and g(f(1)) == 2", "passed"),
    ("what it prints and asks is nothing", "", "print('x' * 10 ** 6)\ndef f():\n    print(1)\n"
     "    try:\n        return input()\n    except EOFError:\n        return 2", "assert f() == 2",
     "passed"),
    ("state between calls", "", "seen = []\ndef f(x): seen.append(x); return len(seen)",
     "assert [f(1), f(1), f(1)] == [1, 2, 3]", "passed"),
    ("data classes", "", "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
     "def f(): return P(3).x, P.__module__ in __import__('sys').modules", "assert f() == (3, True)",
     "passed"),
    ("a name of Python's", "", "def sum(a, b): return a - b", "assert sum(3, 1) == 2", "passed"),
    ("a wrong value", "", "def f(): return 2", "assert f() == 1", "wrong answer"),
    ("division by zero", "", "def f(): return 1 / 0", "assert f() == 1", "exception"),
    ("an error while loading", "", "import nothing_of_that_name", "assert f() == 1", "exception"),
    ("a test that fails over the answer", "", "def f(): return None", "assert f() < 1",
     "exception"),
    ("no such function", "", "def g(): return 1", "assert f() == 1", "exception"),
    ("endless", "", "def f():\n    while True: pass", "f()", "timeout"),
    ("endless while loading", "", "while True: pass", "f()", "timeout"),
    ("too much memory", "", "def f(): return len(bytearray(1 << 31))", "f()", "memory"),
    ("an answer that is too large", "", "def f(): return 'x' * (1 << 23)", "f()",
     "broke the rules"),
    ("a crash", "", "import ctypes\ndef f(): return ctypes.string_at(1)", "f()", "exception"),
    ("ends itself", "", "import os\ndef f(): os._exit(0)", "f()", "broke the rules"),
    ("a syntax error", "", "def f(:", "f()", "syntax"),
    ("no tests", "", "def f(): return 1", " \\n", "failed"),
    ("tests with an error", "", "def f(): return 1", "assert f( == 1", "failed"),
    ("a setup with an error", "1 / 0", "def f(): return 1", "assert f() == 1", "failed"),
]


def run_pairs(label, program, user):
    lines = [{"setup": setup, "program": source, "tests": tests, "seconds": 0.6,
              "entry": {"sum(": "sum", "f(1)": "f"}.get(tests[7:11], "")}
             for _, setup, source, tests, _ in PAIRS]
    _, results = run_lines(program, lines, (), user)
    for (name, _, _, _, verdict), result in zip(PAIRS, results):
        check(f"{label}: {name}: {verdict}", result["verdict"] == verdict, result)


def job(argv, **more):
    return {"argv": argv, "profile": "shell", "seconds": 5, **more}


def sh(script, **more):
    return job(["/bin/sh", "a.sh"], **{**more, "files": {"a.sh": script, **more.get("files", {})}})


# Jobs and what becomes of them: (name, job, reason, code or None, what stdout is or None).
JOBS = [
    ("input and output", sh("read a; echo $a$a; echo e >&2; exit 3", stdin="x\ny\n"),
     "exit", 3, "xx\n"),
    ("an empty environment", sh("env | cut -d= -f1 | sort | tr '\\n' ' '"), "exit", 0,
     "HOME LANG PATH PWD TMPDIR "),
    ("one more variable", sh("echo $A", env=["A=b"]), "exit", 0, "b\n"),
    ("pipes and background", sh("(sleep 0.1; echo 1) & wait; echo 2 | cat"), "exit", 0, "1\n2\n"),
    ("a signal", sh("kill -9 $$"), "signal", 9, ""),
    ("a timeout", sh("echo begun; sleep 100", seconds=0.3), "timeout", None, "begun\n"),
    ("a timeout of the processor", sh("while :; do :; done", cpu_seconds=1), "timeout", None, ""),
    ("too much output", sh("yes", output=1000), "output", None, "y\n" * 500),
    ("memory of all together", sh("for i in 1 2 3 4 5 6; do sh b.sh & done; wait", memory=60 << 20,
                                  files={"b.sh": "a=x; while [ ${#a} -lt 10000000 ]; do a=$a$a; "
                                                 "done; sleep 9"}), "memory", None, ""),
    ("no such program", job(["/nothing"]), "failed", None, ""),
    ("no program", job(["relative"]), "failed", None, ""),
    *[(f"the file name {name}", sh("", files={name: "x"}), "failed", None, "")
      for name in ("../x", "/x", "a/../b", "", "a//b", ".", "a/", "x" * 600)],
    ("files in directories", sh("cat a/b/c", files={"a/b/c": "deep"}), "exit", 0, "deep"),
    ("strict: no second process", {**sh("echo a; (echo b)"), "profile": "strict"}, "exit", None,
     "a\n"),
]


def run_jobs(label, program, user):
    about, results = run_lines(program, [line for _, line, _, _, _ in JOBS], (), user)
    if not about["enough_to_build"]:
        return skip(f"{label}: jobs", about["text"])
    for (name, _, reason, code, out), got in zip(JOBS, results):
        good = got["reason"] == reason and code in (None, got["code"]) and out in (None, got["out"])
        check(f"{label}: {name}: {reason}", good, got)


def run_collecting(label, program, user):
    """What a job leaves is brought out; what is no regular file of its own is not."""
    made = sh("echo made > out; mkdir -p d/e; echo deep > d/e/f; ln -s /etc/passwd link; mkfifo p; "
              "echo changed > a.sh; chmod 700 out", collect=1)
    failing, large = sh("echo x > out; exit 1", collect=1), sh(
        "for i in 1 2 3 4 5 6 7 8; do truncate -s 15M f$i; done", collect=1, box_size=4 << 20)
    about, results = run_lines(program, [made, failing, large], (), user)
    if about["enough_to_build"]:
        check_equal(f"{label}: collected", sorted(results[0]["files"]), ["d/e/f", "out"])
        check_equal(f"{label}: nothing of a job that failed", results[1]["files"], [])
        check_equal(f"{label}: sparse files are not endless",
                    (results[2]["reason"], results[2]["files"]), ("output", []))


def run_all(label, program, user):
    run_forgeries(label, program, user)
    run_pairs(label, program, user)
    run_jobs(label, program, user)
    run_collecting(label, program, user)


if __name__ == "__main__":
    for_each_user(run_all)
