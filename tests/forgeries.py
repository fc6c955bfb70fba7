"""forgeries.py: hostile answers: programs that want to be counted as right without knowing
anything; see test_sandbox.py. Each has the function `answer`, of which the tests want answer(3) ==
41 and more, and each must be counted as wrong. As (name, program)."""

HONEST = "def answer(x, *more):\n    return {}\n"

# Finds the pipe on which the worker answers: every descriptor, because it may be any.
SPEAK = """
import os
def speak(text):
    for fd in range(0, 64):
        try:
            os.write(fd, text)
        except OSError:
            pass
"""

FORGERIES = [
    ("none", HONEST.format("None")),
    ("always equal", """
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = None
def answer(*x): return Yes()
"""),
    ("compares as wished", """
class Yes(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __hash__(self): return 41
def answer(*x): return Yes(7)
"""),
    ("counts as wished", """
class Yes:
    def __sub__(self, other): return self
    __rsub__ = __add__ = __radd__ = __mul__ = __truediv__ = __mod__ = __round__ = __sub__
    def __abs__(self): return self
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __eq__ = __contains__ = __lt__
    def __float__(self): return 41.0
    __index__ = __int__ = lambda self: 41
def answer(*x): return Yes()
"""),
    ("a text that equals all", """
class Yes(str):
    def __eq__(self, other): return True
    def __hash__(self): return 0
def answer(*x): return Yes("x")
"""),
    ("a list that equals all", """
class Yes(list):
    def __eq__(self, other): return True
    def __iter__(self): return iter([41])
    def __len__(self): return 1
def answer(*x): return Yes([5])
"""),
    ("a class that lies", """
class Yes:
    @property
    def __class__(self): return int
    def __eq__(self, other): return True
def answer(*x): return Yes()
"""),
    ("looks into the frames", """
import sys
def answer(*x):
    frame, seen = sys._getframe(), []
    while frame:
        seen += list(frame.f_locals.values()) + list(frame.f_globals.values())
        frame = frame.f_back
    for value in seen:
        if isinstance(value, list): value.append("passed")
        if isinstance(value, str) and "answer(3) ==" in value:
            return int(value.split("answer(3) == ")[1].split()[0])
    return None
"""),
    ("looks through memory", """
import gc
def answer(*x):
    for value in gc.get_objects():
        if isinstance(value, (dict, list, tuple)):
            for part in (value.values() if isinstance(value, dict) else value):
                if isinstance(part, str) and "answer(3) " + "==" in part:
                    return int(part.split("answer(3) == ")[1].split()[0])
"""),
    ("reads its memory as bytes", """
import ctypes, re
def answer(*x):
    found = re.search(rb"answer.3. == (\\d+)", ctypes.string_at(id(gc_anchor) & ~0xfffff, 1 << 20))
    return int(found[1]) if found else None
gc_anchor = object()
"""),
    ("patches the built-ins", """
import builtins, sys
class Quiet(BaseException): pass
builtins.AssertionError = Quiet
for name in ("abs", "all", "any", "isinstance", "len", "sorted", "print", "round", "sum", "type"):
    setattr(builtins, name, lambda *a, **k: True)
def answer(*x): return None
"""),
    ("patches modules", """
import math, sys
math.isclose = lambda *a, **k: True
sys.modules["math"] = sys.modules["tests"] = sys.modules["__main__"]
def answer(*x): return None
"""),
    ("defines the tests anew", """
def check(candidate): pass
METADATA = {}
def answer(*x): return None
"""),
    ("patches the worker", """
import __main__, sys
for name, value in list(vars(__main__).items()):
    if callable(value) and not isinstance(value, type):
        setattr(__main__, name, lambda *a, **k: True)
def answer(*x): return None
"""),
    ("patches the protocol", """
import __main__
__main__.encode = lambda peer, value: ["mine", 0]
__main__.Remote.__eq__ = lambda self, other: True
def answer(*x): return None
"""),
    ("prints the verdict", SPEAK + """
def answer(*x):
    speak(b"0\\n")
    speak(b"passed\\n0\\npassed")
"""),
    ("answers in advance", SPEAK + """
speak(b"".join(b'["=",%d,true,[]]\\n' % i for i in range(1, 50)))
def answer(*x): return None
"""),
    ("answers for the loading", SPEAK + """
speak(b'["=",1,["dict","answer",true,"abs",true,"check",true,"all",true],[]]\\n')
"""),
    ("changes the question while it loads", SPEAK + """
speak(b'["=",1,["dict"],[[0,"x"],[0,["list"]]]]\\n')
"""),
    ("changes a text", SPEAK + """
def answer(*x):
    speak(b'["=",2,41,[[0,4]]]\\n')
"""),
    ("raises what is no exception", SPEAK + """
speak(b'["!",1,{"a":1},[2]]\\n["!",2,3,4]\\n["!",3]\\n')
"""),
    ("raises while it loads", SPEAK + """
speak(b'["!",1,["SystemExit"],"0"]\\n')
"""),
    ("runs out of memory in the checker", SPEAK + """
speak(b'["=",1,["dict","answer",["list"' + b',["list"]' * 400000 + b']],[]]\\n')
def answer(*x): return None
"""),
    ("answers without parts", SPEAK + """
def answer(*x):
    speak(b'["=",2]\\n')
    speak(b'["=",2,3,4,5]\\n')
"""),
    ("asks without parts", SPEAK + """
def answer(*x):
    speak(b'["?",1]\\n["?",1,"call"]\\n["?",1,"call",["yours",0]]\\n["?",1,7,8]\\n')
"""),
    ("loads and answers in advance", SPEAK + """
speak(b'["=",1,["dict","answer",["mine",0]],[]]\\n' +
      b"".join(b'["=",%d,true,[]]\\n' % i for i in range(2, 50)))
"""),
    ("answers with the question", SPEAK + """
def answer(*x):
    speak(b'["=",2,["yours",0],[]]\\n["=",2,["yours",-1],[]]\\n')
"""),
    ("names a dangerous function", SPEAK + """
def answer(*x):
    speak(b'["=",2,["builtin","eval"],[]]\\n')
"""),
    ("asks for the expected value", SPEAK + """
def answer(*x):
    speak(b'["?",1,"get",["yours",0],"__globals__"]\\n["?",2,"load","x=1",[],""]\\n')
"""),
    ("changes what was not given", SPEAK + """
def answer(*x):
    speak(b'["=",2,41,[[-1,["list"]],[7,1]]]\\n')
"""),
    ("sends an object of code", SPEAK + """
import pickle, os
class Run:
    def __reduce__(self): return (os.system, ("touch /tmp/sandbox-forged",))
def answer(*x):
    speak(pickle.dumps(Run()) + b"\\n")
    return Run()
"""),
    ("sends bytes", SPEAK + "def answer(*x):\n    speak(b'\\xff\\xfe\\x00\\n')\n"),
    ("sends a deep value", SPEAK + "def answer(*x):\n    speak(b'[' * 100000 + b'\\n')\n"),
    ("sends a deep good value", SPEAK + """
def answer(*x):
    speak(b'["=",2,' + b'["list",' * 50000 + b'1' + b']' * 50000 + b',[]]\\n')
"""),
    ("sends no end", SPEAK + "def answer(*x):\n    while True: speak(b'x' * 65536)\n"),
    ("sends a huge number", HONEST.format("10 ** 5000")),
    ("sends a larger number", HONEST.format("10 ** 300000")),
    ("not a number", HONEST.format("float('nan')")),
    ("infinity", HONEST.format("float('inf')")),
    ("half a character", HONEST.format("'\\udc80\\ud800'")),
    ("a number that raises", "import decimal\n" + HONEST.format("decimal.Decimal('sNaN')")),
    ("a recursive list", "def answer(*x):\n    a = []\n    a.append(a)\n    return a\n"),
    ("an endless iterator", "import itertools\n" + HONEST.format("itertools.count()")),
    ("leaves", "import os\ndef answer(*x): os._exit(0)\n"),
    ("leaves while it loads", "import os\nos._exit(0)\n"),
    ("leaves politely", "def answer(*x): raise SystemExit(0)\n"),
    ("interrupts", "def answer(*x): raise KeyboardInterrupt\n"),
    ("ends the loop", "def answer(*x): raise StopIteration\n"),
    ("ends the generator", "def answer(*x): raise GeneratorExit\n"),
    ("fails like a test", "def answer(*x): raise AssertionError\n"),
    ("an exception of its own", """
class AssertionErrorX(AssertionError): pass
class Passed(BaseException): pass
def answer(*x): raise Passed
"""),
    ("an exception that explodes", """
class Bomb(Exception):
    def __str__(self): raise SystemExit(0)
def answer(*x): raise Bomb
"""),
    ("a crash", "import ctypes\ndef answer(*x): ctypes.string_at(0)\n"),
    ("no function", "x = 1\n"),
    ("a property of the module", """
import sys, types
class Module(types.ModuleType):
    def __getattr__(self, name): return lambda *a: True
sys.modules["candidate"].__class__ = Module
"""),
    ("goes through the function it is given", """
def answer(x, *more):
    for given in more:
        for name in ("__globals__", "__code__", "__closure__", "__self__", "gi_frame", "f_globals"):
            try:
                found = given._peer.ask("get", given, name)
            except Exception:
                continue
            return found["data"][0] if type(found) is dict else 41
"""),
    ("changes the arguments", """
def answer(x, *more):
    for given in more:
        if isinstance(given, list): given[:] = [41] * 50
        if isinstance(given, dict): given.clear()
"""),
    ("syntax error", "def answer(*x):\nreturn 41\n"),
    ("a NUL", "def answer(*x): return 41\n\0"),
    ("too deep to compile", "answer = " + "(" * 5000 + ")" * 5000 + "\n"),
]

# Each form of test that a task file may use; a forgery must fail every one of them.
TESTS = [
    "assert answer(3) == 41",
    "assert abs(answer(3) - 41) < 1e-6",
    "def check(candidate):\n    assert all(map(lambda x: candidate(x) == x + 38, [3, 4]))\n"
    "check(answer)",
    "import math\nassert math.isclose(answer(3), 41)",
    "assert answer(3) in (41, 42)",
    "assert not answer(3) != 41",
    "data = [41]\nassert answer(3, data, {}, lambda x: 41) == data[0]",
    "try:\n    assert answer(3) == 41\nexcept ValueError:\n    pass",
    "assert sorted([answer(3)]) == [41] and {answer(3)} == {41} and (answer(3),) == (41,)",
    "assert isinstance(answer(3), int) and [x for x in [answer(3)] if x == 41]",
]
