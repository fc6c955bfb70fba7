#!/usr/bin/env python3
"""Tests ./refine instruct: every rule for functions and for conversations on both sides, wordings,
examples that are run in the sandbox, hostile ones among them, duplicates, benchmarks, bad input."""

import collections
import json
import os
import re
import shutil
import subprocess

from check import ROOT, check, check_equal, end, program, short, skip, write_file
from refine_case import PLACE, REFINE, STRICT, documents, fresh, lines, refine, refused, stats_of

PROSE = "Return what the others have left of it."


def source(name="f", doc=PROSE, body="x = a + 1\n    return x", head="", before="", args="a"):
    return f'{before}{head}def {name}({args}):\n    """{doc}"""\n    {body}\n'


def run(texts, *options, program=None):
    """The pairs of files with these texts."""
    data = "".join(json.dumps({"path": f"{i}.py", "repo": "o/n", "language": "Python",
                               "content": text}) + "\n" for i, text in enumerate(texts))
    return documents("instruct", *options, stdin=data.encode(), program=program)


def judge(stage, cases, command, data):
    """Runs the cases (name, text or record, options, None or why it is left out) that have the same
    options together: what stays must be those without a reason, and the reasons must be theirs."""
    groups = {}
    for case in cases:
        groups.setdefault(case[2], []).append(case)
    for options, group in groups.items():
        path = os.path.join(fresh("instruct-cases"), "c.jsonl")
        write_file(path, "".join(data(i, case[1]) + "\n" for i, case in enumerate(group)))
        out = os.path.join(os.path.dirname(path), "kept.jsonl")
        stages, _ = stats_of("instruct", *command, path, *options, "-o", out, "--rows", 256)
        with open(out) as file:
            kept = {group[int(re.sub(r"\D", "", d.get("path") or d["id"]))][0]
                    for d in map(json.loads, file)}
        for name, _, _, why in group:
            check_equal(f"{stage} {name} {' '.join(map(str, options))}", name in kept, why is None)
        found = {}
        for counts in (stages[stage]["counts"], stages[stage]["dropped"],
                       stages.get("tests", {"dropped": {}})["dropped"]):
            found.update({k: v["files"] for k, v in counts.items() if k != "functions that fit"})
        wanted = collections.Counter(case[3] for case in group if case[3])
        check_equal(f"{stage} reasons {' '.join(map(str, options))}", found, dict(wanted))


def as_file(i, text):
    return json.dumps({"path": f"{i}.py", "content": text.replace("a + 1", f"a + {i}")})


def test_pairs():
    text = '''import re, os
from collections import deque as dq
from . import helper
LIMIT = {"a": [1, 2],
         "b": None}
OTHER = re.compile("x")


def count(text: str, n=LIMIT, *, more=None) -> int:
    """Count the words
    of a text, but not its numbers.

    It takes a while.

    :param text: the text
    """
    # a comment stays
    words = dq(re.findall("[a-z]+", text))

    return len(words)
'''
    got = run([text])
    check_equal("one pair", len(got), 1)
    pair = got[0]
    check_equal("the answer is the function, with what it needs, without its docstring",
                pair["output"], '''```python
import re
from collections import deque as dq

LIMIT = {"a": [1, 2],
         "b": None}


def count(text: str, n=LIMIT, *, more=None) -> int:
    # a comment stays
    words = dq(re.findall("[a-z]+", text))

    return len(words)
```''')
    check("the instruction has signature and description",
          "count(text: str, n=LIMIT, *, more=None) -> int" in pair["instruction"] and
          "Count the words of a text, but not its numbers. It takes a while." in
          pair["instruction"] and "param" not in pair["instruction"], pair["instruction"])
    check_equal("where it comes from", {k: pair[k] for k in
                                        ("repo", "path", "name", "line", "source", "language")},
                {"repo": "o/n", "path": "0.py", "name": "count", "line": 9, "source": "docstring",
                 "language": "Python"})


def test_rules():
    long_doc = "Return a word or two. " * 30
    cases = [
        ("a good one", source(), (), None),
        ("no docstring", "def f(a):\n    return a + 1\n", (), "no docstring"),
        ("pass alone", source(body="pass"), (), "empty body"),
        ("dots alone", source(body="..."), (), "empty body"),
        ("an empty return", source(body="return"), (), "empty body"),
        ("return None", source(body="return None"), (), "empty body"),
        ("not implemented", source(body='raise NotImplementedError("x")'), (), "empty body"),
        ("another error", source(body='raise ValueError("x")'), (), None),
        ("a special method", source(name="__init__"), (), "special method or test"),
        ("a test", source(name="test_it"), (), "special method or test"),
        ("testing", source(name="testing"), (), None),
        ("an overload", source(head="@typing.overload\n", before="import typing\n"), (),
         "stub by its decorator"),
        ("a cache", source(head="@functools.cache\n", before="import functools\n"), (), None),
        ("one line", 'def f(a): "' + PROSE + '"; return 1\n', (),
         "docstring not on lines of its own"),
        ("a method", "class A:\n    def f(self):\n        '''" + PROSE + "'''\n        return 1\n",
         (), "method"),
        ("--methods", "class A:\n    def f(self):\n        '''" + PROSE +
         "'''\n        return 1\n", ("--methods",), None),
        ("a module's name", source(body="return A.b", before="A = g()\n"), (),
         "needs other parts of its module"),
        ("--partial", source(body="return A.b", before="A = g()\n"), ("--partial",), None),
        ("a name given twice", source(body="return A", before="A = 1\nA = 2\n"), (),
         "needs other parts of its module"),
        ("a global that it sets", source(body="global A\n    A = a", before="A = 1\n"), (), None),
        ("a relative import", source(body="return A", before="from .b import A\n"), (),
         "needs other parts of its module"),
        ("its own name", source(body="return f(a - 1)"), (), None),
        ("a built-in", source(body="return len(a)"), (), None),
        ("a lambda and a class inside", source(body="class B:\n        c = lambda x: x + a\n"
                                               "    return B"), (), None),
        ("markup", source(doc="Return :param x: the other thing of it."), (),
         "docstring is no prose"),
        ("signs", source(doc="a == b => {c: [1, 2], d: (3, 4)} != 5"), (), "docstring is no prose"),
        ("a section", source(doc="Args:\n        a: what is to be returned here"), (),
         "docstring is no prose"),
        ("a signature first", source(doc="f(a) -> int\n\n    " + PROSE), (), None),
        ("Chinese", source(doc="\u8fd4\u56de\u4e00\u4e2a\u5217\u8868\u7684\u957f\u5ea6\u3002"), (),
         None),
        ("unfinished", source(doc="Return it, but TO" "DO the rest of it."), (),
         "docstring speaks of unfinished work"),
        ("deprecated", source(doc="Deprecated: use the other one instead."), (),
         "docstring speaks of unfinished work"),
        ("19 bytes", source(doc="Return the a of a b"), (), "docstring is short"),
        ("20 bytes", source(doc="Return the a of a bc"), (), None),
        ("--min-doc", source(), ("--min-doc", len(PROSE) + 1), "docstring is short"),
        ("--max-doc", source(), ("--max-doc", len(PROSE)), None),
        ("above it", source(), ("--max-doc", len(PROSE) - 1), "docstring is long"),
        ("a long paragraph", source(doc=long_doc * 2), (), "docstring is long"),
        ("two lines", source(body="return a"), (), None),
        ("--min-lines", source(body="return a"), ("--min-lines", 3), "function is short"),
        ("60 lines", source(body="a += 1\n    " * 58 + "return a"), (), None),
        ("61 lines", source(body="a += 1\n    " * 59 + "return a"), (), "function is long"),
        ("no examples", source(), ("--level", "doctest"), "no examples in its docstring"),
        ("an example of another", source(doc=PROSE + "\n\n    >>> g(1)\n    2\n    "),
         ("--level", "doctest"), "no examples in its docstring"),
        ("an example without a result", source(doc=PROSE + "\n\n    >>> b = f(1)\n    "),
         ("--level", "doctest"), "no examples in its docstring"),
        ("a syntax error", "def f(:\n", (), "does not parse"),
    ]
    judge("functions", cases, (), as_file)
    check_equal("nested in a function", len(run(["def g(a):\n    def f(a):\n        '''" + PROSE +
                                                 "'''\n        return a\n    return f\n"])), 0)
    other = [{"language": "C", "content": source()}, {"path": "a.c", "content": source()},
             {"path": "a.py", "content": source()}, {"content": source(name="g", body="a(1, 2)")}]
    data = "".join(json.dumps(d) + "\n" for d in other).encode()
    check_equal("other languages are left alone, what says nothing is tried",
                [d["name"] for d in documents("instruct", stdin=data)], ["f", "g"])


def test_wordings():
    texts = [source(name=f"find_{i}", body=f"return a.find_{i}(b{i}=a, c={i}, d=[a, {i}])",
                    doc=f"Return the thing of number {i}.\n\n    >>> find_{i}(1)\n    2\n    ")
             for i in range(100)]
    got = run(texts)
    forms = {d["instruction"].replace(d["name"], "N").split("\n\nFor example")[0].replace(
        "number " + d["name"][5:], "number I") for d in got}
    check_equal("a pair of each", len(got), 100)
    check("several wordings", 6 <= len(forms) <= 8, len(forms))
    shown = sum("For example" in d["instruction"] for d in got)
    check("examples are shown in half of them", 30 < shown < 70, shown)
    check("each with its answer", all(d["name"] in d["instruction"] and d["name"] in d["output"]
                                      for d in got))
    again = run(texts, "-j", 1)
    check("the same again, with one thread", again == got)
    other = run(texts, "--seed", 2)
    check("another seed, other wordings", other != got and
          [d["output"] for d in other] == [d["output"] for d in got])
    some = run(texts, "--limit", 7)
    check_equal("--limit", [d["name"] for d in some],
                [got[i]["name"] for i in (14, 28, 42, 57, 71, 85, 99)])
    check_equal("--limit above what there is", len(run(texts, "--limit", 200)), 100)
    hard = run([source(name="q", doc='Return the \\"\\"\\" of a "quoted" text.')])
    check("quotes", len(hard) < 2)


GOOD = {
    "a value": (">>> f(1)\n2", "return a + 1"),
    "printed": (">>> f('x')\nx\ny", "print(a)\n    print('y')"),
    "nothing": (">>> f(1)\n>>> f.b = f(3)\n>>> f(2)\n>>> f(None)\n1",
                "return 1 if a is None else None"),
    "an exception": (">>> f(0)\nTraceback (most recent call last):\n    ...\n"
                     "ZeroDivisionError: division by zero", "return 1 / a"),
    "its detail": (">>> f(0)  # doctest: +IGNORE_EXCEPTION_DETAIL\n"
                   "Traceback (most recent call last):\nValueError: other", "raise ValueError(a)"),
    "a blank line": (">>> f(0)\na\n<BLANKLINE>\nb", "print('a\\n\\nb')"),
    "left out": (">>> f(0)  # doctest: +ELLIPSIS\n[0, ..., 9]", "return list(range(10))"),
    "white space": (">>> f(0)  # doctest: +NORMALIZE_WHITESPACE\n[0,\n 1]", "return [a, 1]"),
    "skipped": (">>> f(0)\n0\n>>> f(1)  # doctest: +SKIP\n5", "return a"),
    "a module": (">>> import math\n>>> f(math.pi) == math.pi\nTrue", "return a"),
    "its own import": (">>> from nosuchmodule import f\n>>> f(1)\n1", "return a"),
    "several lines": (">>> for i in range(2):\n...     f(i)\n0\n1", "return a"),
    "classes": (">>> class A: b = 5\n>>> f(A())\n5", "return a.b"),
}
BAD = {
    "another value": (">>> f(1)\n3", "return a + 1", "wrong answer"),
    "another exception": (">>> f(0)\nTraceback (most recent call last):\nValueError: x",
                          "raise KeyError(a)", "wrong answer"),
    "no exception": (">>> f(0)\nTraceback (most recent call last):\nValueError: x", "return a",
                     "wrong answer"),
    "an exception": (">>> f(1)\n1", "raise ValueError(a)", "wrong answer"),
    "more than is left out": (">>> f(0)  # doctest: +ELLIPSIS\n[0, ..., 9]", "return [0, 8]",
                              "wrong answer"),
    "printed though nothing is wanted": (">>> f(1)\n>>> f(2)\n2", "print(a)\n    return a",
                                         "wrong answer"),
    "a module that is not here": (">>> f(1)\n1", "import nosuchmodule\n    return 1",
                                  "wrong answer"),
}
# What a function may try so that it is taken for good, or to do harm.
HOSTILE = {
    "an endless loop": "while True: pass",
    "a sleep": "import time\n    time.sleep(100)",
    "much memory": "return len(bytearray(1 << 32))",
    "exit": "raise SystemExit(0)",
    "exit at once": "import os\n    os._exit(0)",
    "a fork": "import os\n    while True: os.fork()",
    "a thread that ends it": "import os, threading\n    threading.Thread(target=os._exit, args=(0,)"
                             ").start()\n    import time\n    time.sleep(9)",
    "kills": "import os\n    os.kill(os.getppid(), 9)\n    os.kill(0, 9)",
    "writes a file": "open(PLACE + '/left', 'w').write('x')\n    return 2",
    "reads a file": "return len(open(PLACE + '/secret').read()) and 2",
    "starts a program": "import subprocess\n    subprocess.run(['/bin/sh', '-c', "
                        "'echo > /tmp/left'], check=True)\n    return 2",
    "connects": "import socket\n    socket.create_connection(('127.0.0.1', 1))\n    return 2",
    "says that it passed": "import os\n    for fd in range(64):\n"
                           "        try: os.write(fd, b'0\\n')\n        except OSError: pass\n"
                           "    print('passed')",
    "answers in advance": "import os\n    for fd in range(64):\n"
                          "        try: os.write(fd, b'[\"=\",3,["
                          "\"list\",\"2\\\\n\",null],[]]\\n' * 9)\n        except OSError: pass",
    "always equal": "class Y:\n        def __eq__(s, o): return True\n        def __repr__(s): "
                    "return Y()\n    return Y()",
    "a text that equals all": "class S(str):\n        __eq__ = lambda s, o: True\n    globals()["
                              "'opencoder_example'] = lambda s: [S('x'), None]\n    return 7",
    "patches the runner": "globals()['opencoder_example'] = lambda s: True\n    return 7",
    "patches sys": "import sys\n    sys.displayhook = lambda v: sys.stdout.write('passed')\n"
                   "    return 7",
    "looks for what is wanted": "import sys\n    f = sys._getframe()\n    while f.f_back:\n"
                                "        f = f.f_back\n"
                                "        if 'EXAMPLES' in f.f_globals: return 2",
    "reads its docstring": "return int(f.__doc__.split()[-1])",
    "deep recursion": "return f(a)",
    "much output": "while True: print('x' * 1000000)",
}


def tested(cases, seconds):
    """Runs files of a function with examples each, and returns what stayed."""
    texts = []
    for i, (examples, body) in enumerate(cases):
        doc = PROSE + "\n\n" + "\n".join("    " + line for line in examples.split("\n"))
        texts.append(source(doc=doc.replace("\\", "\\\\") + "\n    ",
                            body=f"z{i} = {i}\n    " + body, before=f"PLACE = {PLACE!r}\n"))
    return run(texts, "--level", "doctest", "--timeout", seconds, "--memory", 256, "-j", 8,
               "--bands", 1, "--rows", 256, program=STRICT if len(cases) < 9 else None)


def sandboxed():
    done = refine("instruct", "--level", "doctest", "-q", stdin=b"")
    if done[0] and b"expected" in done[2].encode():
        skip("doctests", done[2].strip())
        return False
    return True


def test_examples():
    if not sandboxed():
        return
    cases = list(GOOD.values())
    kept = {d["path"] for d in tested(cases, 30)}
    for i, name in enumerate(GOOD):
        check(f"examples pass: {name}", f"{i}.py" in kept)
    got = tested(cases[:1], 30)
    check_equal("the source says so", [d["source"] for d in got], ["doctest"])
    bad = [(name, source(doc=PROSE + "\n\n" + "\n".join("    " + line for line in examples.split(
        "\n")) + "\n    ", body=body), ("--level", "doctest", "--timeout", 30), f"tests: {why}")
           for name, (examples, body, why) in BAD.items()]
    judge("functions", bad, (), as_file)


def test_hostile():
    if not sandboxed():
        return
    write_file(os.path.join(PLACE, "secret"), "secret")
    for left in ("/tmp/left", os.path.join(PLACE, "left")):
        if os.path.exists(left):
            os.unlink(left)
    # Time enough, so that it is not the clock that refuses them: a good one beside them stays.
    good = ">>> f(1)\n2", "return a + 1"
    kept = {d["path"] for d in tested([*((good[0], body) for body in HOSTILE.values()), good], 3)}
    for i, name in enumerate(HOSTILE):
        check(f"hostile function: {name}", f"{i}.py" not in kept)
    check("hostile functions, and a good one", kept == {f"{len(HOSTILE)}.py"}, kept)
    # The same in the examples, which are as strange: nothing of them runs outside of the box.
    cases = [(f">>> {line}\n>>> f(1)\n2", "return 3") for line in (
        "import os; os._exit(0)", "raise SystemExit", "while True: pass", "f = lambda a: 3",
        "opencoder_example = lambda s: ['2\\n', None]; matches = lambda *a: True",
        "import builtins; builtins.AssertionError = KeyError", "open('/tmp/left', 'w')",
        "EXAMPLES = []", "import os; os.fork()")]
    check_equal("hostile examples, and a good one", [d["path"] for d in tested([*cases, good], 3)],
                [f"{len(cases)}.py"])
    check("nothing was written", not os.path.exists("/tmp/left") and
          not os.path.exists(os.path.join(PLACE, "left")))
    done = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout \
        if shutil.which("ps") else ""
    check("no process is left", "opencoder_example" not in done, short(done))


def test_same():
    body = "\n    ".join(f"value_{i} = a.get({i}) + other({i}, key='k{i}')" for i in range(20))
    twins = [source(name="f", body="import other\n    " + body), source(name="f", body=(
        "import other\n    " + body), doc="Return another thing of it."),
             source(name="f", body="import other\n    " + body.replace("k7", "k77")),
             source(name="g", body="return [a, a, 1]")]
    got = [d["path"] for d in run(twins)]
    check_equal("exact and near duplicates: the first one stays", got, ["0.py", "3.py"])
    check_equal("no bands, no near duplicates", len(run(twins, "--rows", 256, "--bands", 1)), 3)
    bench = lines(os.path.join(fresh("instruct-bench"), "h.jsonl"), {
        "prompt": "def g(a):", "entry_point": "g", "canonical_solution": "", "test": ""})
    check_equal("--against", [d["path"] for d in run(twins, "-a", bench)], ["0.py"])


def talk(*turns, key="conversation", names=("role", "content"), **more):
    who = {"u": "user", "a": "assistant", "s": "system", "h": "human", "g": "gpt", "x": "tool"}
    return {key: [{names[0]: who[t[0]], names[1]: t[1:]} for t in turns], **more}


ASK = "How do I reverse a list in Python? I have this function."
ANSWER = "Use this:\n```python\nxs.reverse()\n```"


def test_chats():
    cases = [
        ("WildChat", talk("u" + ASK, "a" + ANSWER, language="English", conversation_hash="7",
                          toxic=False, redacted=False, turn=1), (), True),
        ("LMSYS", talk("u" + ASK, "a" + ANSWER, language="English",
                       openai_moderation=[{"flagged": False}]), (), True),
        ("ShareGPT", talk("h" + ASK, "g" + ANSWER, key="conversations", names=("from", "value"),
                          id="8"), (), True),
        ("messages", talk("sBe kind.", "u" + ASK, "a" + ANSWER, key="messages"), (), True),
        ("Alpaca", {"instruction": ASK, "input": "xs = [1]", "output": ANSWER}, (), True),
        ("a prompt", {"prompt": ASK, "response": ANSWER}, (), True),
        ("toxic", talk("u" + ASK, "a" + ANSWER, toxic=True), (), "marked as toxic"),
        ("redacted", talk("u" + ASK, "a" + ANSWER, redacted=True), (), "marked as redacted"),
        ("flagged", talk("u" + ASK, "a" + ANSWER, openai_moderation=[{"flagged": False},
                                                                     {"flagged": True}]), (),
         "marked by a moderation"),
        ("no answer", talk("u" + ASK), (), "a question without an answer"),
        ("two questions", talk("u" + ASK, "u" + ASK, "a" + ANSWER), (),
         "a question without an answer"),
        ("an answer first", talk("a" + ANSWER, "u" + ASK, "a" + ANSWER), (),
         "begins without a question"),
        ("a tool", talk("u" + ASK, "x1", "a" + ANSWER), (), "a turn by nobody known"),
        ("an empty turn", talk("u" + ASK, "a"), (), "a turn without text"),
        ("a late system message", talk("u" + ASK, "sx", "a" + ANSWER), (),
         "a system message within"),
        ("no turns", {"conversation": []}, (), "no conversation"),
        ("no list", {"conversation": "x"}, (), "no conversation"),
        ("turns that are none", {"conversation": [1, None]}, (), "a turn by nobody known"),
        ("nothing", {"x": 1}, (), "no conversation"),
        ("German", talk("u" + ASK, "a" + ANSWER, language="German"), (), "other language"),
        ("German is wanted", talk("u" + ASK, "a" + ANSWER, language="German"),
         ("--lang", "en,de"), True),
        ("its code", talk("u" + ASK, "a" + ANSWER, language="de"), ("--lang", "German"), True),
        ("a region", talk("u" + ASK, "a" + ANSWER, language="zh-CN"), (), True),
        ("another", talk("u" + ASK, "a" + ANSWER, language="Klingon"), ("--lang", "klingon"), True),
        ("all", talk("u" + ASK, "a" + ANSWER, language="x"), ("--lang", "all"), True),
        ("Russian by its characters", talk("u" + "\u043f\u0440\u0438\u0432\u0435\u0442 " * 9,
                                           "a" + ANSWER), (), "other language"),
        ("Chinese by its characters", talk("u" + "\u5982\u4f55\u53cd\u8f6c\u5217\u8868" * 3,
                                           "a" + ANSWER), (), True),
        ("it is not wanted", talk("u" + "\u5982\u4f55\u53cd\u8f6c\u5217\u8868" * 3, "a" + ANSWER),
         ("--lang", "en"), "other language"),
        ("no code", talk("uWhat is the capital of France today?", "aParis is the capital of it."),
         (), "not about code"),
        ("--any-topic", talk("uWhat is the capital of France today?",
                             "aParis is the capital of it."), ("--any-topic",), True),
        ("one word", talk("uTell me about the python and where it lives.", "a" + "It lives. " * 9),
         (), "not about code"),
        ("one word twice", talk("uThe python and the Python and pythons.", "a" + "It lives. " * 9),
         (), "not about code"),
        ("two words", talk("uTell me about SQL queries, and a query.", "a" + "It is one. " * 9), (),
         True),
        ("parts of words", talk("uThe classical javanese sorting of encoded gits.",
                                "a" + "It is one. " * 9), (), "not about code"),
        ("fenced", talk("uWhat is this?\n```\nx\n```", "a" + "It is one. " * 9), (), True),
        ("a short question", talk("usort code?", "a" + ANSWER), (), "question is short"),
        ("not so short", talk("usort code ??", "a" + ANSWER), (), True),
        ("--max-ask", talk("u" + ASK, "a" + ANSWER), ("--max-ask", len(ASK) - 1),
         "question is long"),
        ("as long", talk("u" + ASK, "a" + ANSWER), ("--max-ask", len(ASK)), True),
        ("a short answer", talk("u" + ASK, "ayes ```a``` that is it"), (), True),
        ("--min-answer", talk("u" + ASK, "a" + ANSWER), ("--min-answer", len(ANSWER) + 1),
         "answer is short"),
        ("--max-answer", talk("u" + ASK, "a" + ANSWER), ("--max-answer", len(ANSWER) - 1),
         "answer is long"),
        ("cut off", talk("u" + ASK, "a" + ANSWER + "\n```python\nx = "), (), "answer is cut off"),
        ("a refusal", talk("u" + ASK, "aI'm sorry, but I can't do that for you."), (),
         "answer is a refusal"),
        ("sorry within", talk("u" + ASK, "aWell, I'm sorry, but that is so."), (), True),
    ]
    judge("chats", [(name, record, options, None if wanted is True else wanted)
                    for name, record, options, wanted in cases], ("--from",),
          lambda i, record: json.dumps({**record, "id": f"{i}", "conversation_hash": f"{i}"})
          .replace("have this", f"have th{i:02}"))


def test_chat_pairs():
    place = fresh("chat-pairs")
    path = lines(os.path.join(place, "c.jsonl"),
                 talk("sBe kind.", "u" + ASK, "a" + ANSWER, "uAnd now?", "aStill.", "uMore?",
                      language="English", conversation_hash="h1", model="m"),
                 "broken", '{"conversation": ', "[]", "7",
                 talk("u" + ASK + " ", "aAnother answer to that: ```x``` and so on."),
                 {"instruction": "Sort this list with Python code.", "input": "[2, 1]",
                  "output": "sorted([2, 1]) does that for you."})
    first = documents("instruct", "--from", path)
    check_equal("the first question and its answer", first[0], {
        "instruction": ASK, "output": ANSWER, "language": "English", "source": "chat", "id": "h1",
        "model": "m"})
    check_equal("a pair with its input", {k: first[1].get(k) for k in ("instruction", "input")},
                {"instruction": "Sort this list with Python code.", "input": "[2, 1]"})
    check_equal("near duplicates of a question are dropped", len(first), 2)
    whole = documents("instruct", "--from", path, "--turns", "all", "--min-answer", 1)
    check_equal("--turns all", [m["role"] for m in whole[0]["messages"]],
                ["system", "user", "assistant", "user", "assistant"])
    code, out, err = refine("instruct", "--from", path, "-v", program=STRICT)
    check("broken lines are counted and named", code == 0 and "left out: 4 " in err and
          "c.jsonl:2: " in err, err)
    check_equal("and the input of a pair", whole[1]["messages"][0]["content"],
                "Sort this list with Python code.\n[2, 1]")
    same = {"instruction": "Find the bug in this Python code.",
            "output": "There is one in its last line."}
    words = "one two three four five six seven eight nine ten eleven"
    inputs = lines(os.path.join(place, "i.jsonl"), {**same, "input": "x = 1 +"},
                   {**same, "input": "while True print('y')"}, {**same, "input": "x = 1 +"},
                   {**same, "input": words})
    check_equal("what differs in the input is no duplicate",
                [d["input"] for d in documents("instruct", "--from", inputs)],
                ["x = 1 +", "while True print('y')", words])
    bench = lines(os.path.join(place, "h.jsonl"), {"text": words, "code": "def f(a): pass",
                                                   "test_list": []})
    check_equal("--against looks at the input", len(documents("instruct", "--from", inputs, "-a",
                                                              bench)), 2)
    marked = write_file(os.path.join(place, "b.jsonl"), b"\xef\xbb\xbf" + json.dumps(
        talk("u" + ASK, "a" + ANSWER)).encode())
    check_equal("a byte order mark", len(documents("instruct", "--from", marked)), 1)
    bench = lines(os.path.join(place, "h.jsonl"), {"text": "x", "code": "def reverse_it(a): pass",
                                                   "test_list": [ANSWER + " one two three four five"
                                                                 " six seven eight nine ten"]})
    mine = lines(os.path.join(place, "d.jsonl"), talk(
        "u" + ASK, "a```\nxs.reverse() one two three four five six seven eight nine\n```"))
    check_equal("--against", documents("instruct", "--from", mine, "-a", bench), [])
    packed = os.path.join(place, "p.jsonl")
    refine("instruct", "--from", path, "-o", packed, "-q")
    check_equal("an output file", len(open(packed).read().splitlines()), 2)


def test_usage():
    place = fresh("instruct-usage")
    path = lines(os.path.join(place, "a.jsonl"), {"content": source()})
    refused("--level", 2, ["--level", "docstring or doctest"], "instruct", path, "--level", "all")
    refused("--turns", 2, ["--turns", "first or all"], "instruct", "--from", path, "--turns", "2")
    refused("files and --from", 2, ["--from", "one of them"], "instruct", path, "--from", path)
    refused("doctests of chats", 2, ["--level doctest"], "instruct", "--from", path, "--level",
            "doctest")
    refused("--resume", 2, ["--resume"], "instruct", path, "--resume")
    refused("input is output", 2, ["another name"], "instruct", path, "-o", path)
    refused("no such file", 1, ["cannot open"], "instruct", os.path.join(place, "none"))
    refused("a place where nothing can be written", 1, ["none/x"], "instruct", path, "-o",
            os.path.join(place, "none/x"))
    code, out, _ = refine("instruct", "-h")
    check("-h shows examples", code == 0 and b"--level doctest" in out and b"--from" in out)
    data = b'nonsense\n{"content": 5}\n' + json.dumps({"content": source()}).encode() + \
        b'\n{"content": "\xff"}\n'
    code, out, err = refine("instruct", "-v", stdin=data, program=STRICT)
    check("bad lines stop nothing", code == 0 and out.count(b"\n") == 1 and "left out: 3" in err,
          err)
    odd = ["", "\0", "def f(:", "(" * 3000, "x = '''" + "a\n" * 9, "\ufeff" + source(),
           source().replace("\n", "\r\n"), source(doc="Return \\ud800 half a character."),
           "def f():\n\t'''" + PROSE + "'''\n\treturn 1\n", "# coding: latin-1\n" + source()]
    got = run(odd, program=STRICT)
    check("odd sources stop nothing", 2 <= len(got) <= 5, [d["path"] for d in got])
    env = dict(os.environ, PATH=place)
    code, out, err = refine("instruct", "-q", path, env=env)
    check("no python3 is an error", code == 1 and out == b"" and "\nerror: python3: " in err, err)


def test_pack():
    """What is written is what tokenizer pack takes."""
    place = fresh("instruct-pack")
    path = os.path.join(place, "p.jsonl")
    with open(path, "w") as file:
        for d in run([source(), source(name="g", body="return [a, a, 1]")]):
            print(json.dumps(d), file=file)
    text = write_file(os.path.join(place, "t.txt"), "def f(a): return a\n" * 50)
    vocab = os.path.join(place, "v.gguf")
    tokenizer = program("tokenizer")
    done = subprocess.run([tokenizer, "train", text, "-o", vocab, "--vocab", "280"],
                          capture_output=True, text=True)
    if done.returncode == 0:
        done = subprocess.run([tokenizer, "pack", path, "-o", os.path.join(place, "p.tok"),
                               "--tokenizer", vocab], capture_output=True, text=True)
    check("tokenizer pack takes them", done.returncode == 0 and "skipped" not in done.stderr,
          done.stderr)


if __name__ == "__main__":
    assert ROOT and REFINE
    test_pairs()
    test_rules()
    test_wordings()
    test_examples()
    test_hostile()
    test_same()
    test_chats()
    test_chat_pairs()
    test_usage()
    test_pack()
    end()
