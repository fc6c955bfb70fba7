"""answers.py: what a model wrote for ./refine synth (data/synth.c): is it in the form that was
asked for, and what of it is the program, what the tests? The second half of functions.py's process.

What to know first. Asserts that a model wrote run beside what judges them, so they are refused if
they do anything but call and compare; and a stub of the program, which does nothing, is made, with
which they must fail. Test: tests/test_synth.py."""

class Refused(Exception):
    """Why an answer is not taken."""


def fenced(text):
    """(line, language of the fenced block that it stands in or None, is it a fence?) of each line;
    a block that never ends is refused."""
    language = None
    for line in text.split("\n"):
        fence = re.match(r" {0,3}```+ *([\w+#.-]*)", line)
        if fence and language is None:
            language = fence[1].lower()
            yield line, language, True
        elif fence and not fence[1]:
            yield line, language, True
            language = None
        else:
            yield line, language, False
    if language is not None:
        raise Refused("cut off in a fenced block")


def blocks(text):
    """[(language, code)] of the fenced blocks."""
    found, lines = [], None
    for line, language, fence in fenced(text):
        if fence and lines is None:
            lines = []
        elif fence:
            found.append((language, "\n".join(lines)))
            lines = None
        elif lines is not None:
            lines.append(line)
    return found


def python_blocks(text):
    return [code for language, code in blocks(text) if language in ("", "python", "py", "python3")]


def parse(code):
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError):
        raise Refused("does not parse")


IMPORTS = ast.Import, ast.ImportFrom


def is_test(node):
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test")


def is_call(node, name=None):
    """Is it a statement that calls a function, and does not use its value?"""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and \
        isinstance(node.value.func, ast.Name) and name in (None, node.value.func.id)


def kinds_of(body):
    """(statement, "program", "tests" or "neither"): imports, functions and classes are the program,
    and so is what is assigned before the last of them; asserts, functions called test... and what
    else follows are the tests; prints and the part under __name__ are neither."""
    made = [i for i, node in enumerate(body) if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and
            not is_test(node)]
    imports, tests = set(), False
    for i, node in enumerate(body):
        source = ast.unparse(node) if isinstance(node, IMPORTS) else ""
        if isinstance(node, ast.Assert) or is_test(node):
            kind, tests = "tests", True
        elif i in made or isinstance(node, IMPORTS) and source not in imports:
            kind = "program"
        elif source or isinstance(node, ast.If) or is_call(node, "print"):
            kind = "neither"
        elif tests or made and i > made[-1]:
            kind = "tests"
        else:
            kind = "program" if isinstance(node, (ast.Assign, ast.AnnAssign)) else "neither"
        imports.add(source)
        yield node, kind


def split_tests(code):
    """(program, tests) as texts."""
    tree, lines, owner = parse(code), code.split("\n"), {}
    for node, kind in kinds_of(tree.body):
        first = min([node.lineno] + [d.lineno for d in getattr(node, "decorator_list", ())])
        if any(owner.setdefault(line, kind) != kind for line in range(first, node.end_lineno + 1)):
            raise Refused("two statements in a line")

    def part(kind):
        found = [line for number, line in enumerate(lines, 1)
                 if owner.get(number, "program") == kind]
        return re.sub(r"\n{4,}", "\n\n\n", "\n".join(found)).strip("\n") + "\n"
    called = {node.value.func.id for node in tree.body if is_call(node)}
    more = [node.name for node in tree.body if is_test(node) and node.name not in called]
    return part("program"), part("tests") + "".join(f"{name}()\n" for name in more)


def own_imports(tree, tests):
    """The harmless imports of a program that its tests use too: the tests have their own, because
    what they take from the program they cannot trust."""
    used = {n.id for n in ast.walk(parse(tests)) if isinstance(n, ast.Name)}
    found = ""
    for node in tree.body:
        module = node.module if isinstance(node, ast.ImportFrom) else ""
        for alias in node.names if isinstance(node, IMPORTS) else ():
            name = alias.asname or alias.name
            if name in used and (module or alias.name) in ALLOWED:
                found += f"from {module} " * bool(module) + f"import {alias.name} as {name}\n"
    return found


ALLOWED = {"math", "random", "string", "itertools", "collections", "functools", "datetime",
           "decimal", "fractions", "operator", "re", "json", "copy", "heapq", "bisect",
           "statistics", "typing"}
FORBIDDEN = {"exec", "eval", "open", "compile", "globals", "locals", "vars", "getattr", "setattr",
             "delattr", "input", "exit", "quit", "breakpoint", "help", "memoryview"}


# Ways from what is allowed to what is not: to other modules, to private attributes, to code that
# stands in a text (annotations, too, are evaluated), to the frames of who calls.
FORBIDDEN_PARTS = {"sys", "os", "modules", "builtins", "enum", "codecs", "types", "copyreg",
                   "weakref", "contextlib", "warnings", "attrgetter", "methodcaller", "Formatter",
                   "update_wrapper", "wraps", "get_type_hints", "ForwardRef",
                   "evaluate_forward_ref", "singledispatch", "singledispatchmethod", "gi_frame",
                   "gi_code", "gi_yieldfrom", "cr_frame", "ag_frame", "tb_frame", "f_back",
                   "f_globals", "f_locals", "f_builtins", "f_code"}


def check_tests(tests, defined):
    """Tests run beside what judges them, so they are plain: calls, values, asserts. They must say
    something about the program at least three times."""
    tree = parse(tests)
    about, asserts = set(defined), 0
    for node in ast.walk(tree):
        bad = isinstance(node, (ast.ClassDef, ast.AsyncFunctionDef, ast.Global, ast.Nonlocal,
                                ast.With, ast.Await, ast.Yield, ast.YieldFrom))
        if isinstance(node, ast.Import):
            bad = any(alias.name not in ALLOWED for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            bad = node.level or node.module not in ALLOWED or any(
                alias.name[0] in "_*" or alias.name in FORBIDDEN_PARTS for alias in node.names)
        elif isinstance(node, ast.Name):
            bad = node.id in FORBIDDEN or node.id.startswith("__")
        elif isinstance(node, ast.Attribute):
            bad = node.attr.startswith("_") or node.attr in FORBIDDEN_PARTS
        elif isinstance(node, ast.ExceptHandler):
            caught = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type \
                else {"BaseException"}
            bad = caught & {"BaseException", "Exception", "AssertionError"}
        elif isinstance(node, ast.FunctionDef):
            bad = not is_test(node) or node.decorator_list or node.args.args
        if bad:
            raise Refused("tests do more than call and compare")
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and {n.id for n in ast.walk(node.value)
                                             if isinstance(n, ast.Name)} & about:
            about |= {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            asserts += bool({n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)} & about)
    if asserts < 3:
        raise Refused("fewer than three asserts about it")


class Stub(ast.NodeTransformer):
    """Makes every function do nothing."""

    def visit_FunctionDef(self, node):
        node.body = [ast.Return(ast.Constant(None))]
        node.decorator_list = []
        return node


def program_of(code):
    """(program, tests, tests as they are run, stub, the names that the program defines)."""
    program, tests = split_tests(code)
    tree = parse(program)
    made = [node for node in tree.body if isinstance(node, (*FUNCTIONS, ast.ClassDef))]
    if not made:
        raise Refused("no function or class")
    if any(isinstance(node, FUNCTIONS) and is_empty(
            node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body)
            for node in made):
        raise Refused("empty body")
    names = {node.name for node in made}
    run = own_imports(tree, tests) + tests
    check_tests(run, names)
    stub = ast.unparse(ast.fix_missing_locations(Stub().visit(tree)))
    return program, tests, run, stub, names


def snippet(text):
    code = python_blocks(text)
    if not code:
        raise Refused("no fenced block of Python")
    program, tests, run, stub, _ = program_of("\n\n\n".join(code))
    return {"text": program + "\n\n" + tests, "question": "", "output": program,
            "program": program, "tests": run, "stub": stub}


def sections(text):
    """The texts under the headings Question, Answer, Tests; the first of each. A comment in a
    fenced block is no heading."""
    found, lines = {}, []
    for line, language, _ in fenced(text):
        heading = language is None and re.match(r"#+ *(question|answer|tests?)\b[: ]*$", line,
                                                re.IGNORECASE)
        if heading:
            lines = []
            found.setdefault(heading[1].lower().rstrip("s"), lines)
        else:
            lines.append(line)
    if found.keys() != {"question", "answer", "test"}:
        raise Refused("not in the form that was asked for")
    return ["\n".join(found[name]).strip() for name in ("question", "answer", "test")]


def educational(text):
    question, answer, tests = sections(text)
    if not 40 <= len(question) <= 4000:
        raise Refused("question is short or long")
    code, test_code = python_blocks(answer), python_blocks(tests)
    if not code or not test_code:
        raise Refused("no fenced block of Python")
    program, tests, run, stub, names = program_of("\n\n\n".join(code + test_code))
    used = {n.id for n in ast.walk(parse(tests)) if isinstance(n, ast.Name)}
    if not any(name in question for name in names & used):
        raise Refused("question does not name the function")
    return {"text": program, "question": question, "output": answer, "program": program,
            "tests": run, "stub": stub}


def package(text):
    """As educational; the first line says which function of which library is to be used."""
    wanted, _, text = text.partition("\n")
    library, _, name = wanted.partition(" ")
    found = educational(text)
    tree = parse(found["program"])
    imported = {(alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
                for node in ast.walk(tree) if isinstance(node, IMPORTS)
                for alias in node.names}
    used = {getattr(n, "attr", getattr(n, "id", "")) for n in ast.walk(tree)} | {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
        for alias in node.names}
    if library.split(".")[0] not in imported or name.split(".")[-1] not in used:
        raise Refused("does not use the function that was asked for")
    return found


def textbook(text):
    start = re.search(r"(?m)^#{1,4} +\S", text)
    if not start:
        raise Refused("no headings")
    text = text[start.start():].strip()
    code = blocks(text)
    lines = [line.strip() for line in text.split("\n") if len(line.strip()) > 20]
    inside = sum(len(part) for _, part in code)
    if len(re.findall(r"(?m)^#{1,4} +\S", re.sub(r"(?ms)^ {0,3}```.*?^ {0,3}```", "", text))) < 2:
        raise Refused("fewer than two headings")
    if not code:
        raise Refused("no example")
    if len(text) - inside < 600:
        raise Refused("little prose")
    if len(text) > 30000:
        raise Refused("long")
    if len(set(lines)) < 0.8 * len(lines):
        raise Refused("repeats itself")
    for language, part in code:
        if language in ("python", "py", "python3") and ">>>" not in part:
            parse(part)
    return {"text": text, "question": "", "output": text}


def judged(kind):
    def judge(text):
        try:
            return kind(text)
        except Refused as error:
            return {"why": str(error)}
    return judge


def main():
    sys.setrecursionlimit(10000)
    kinds = {b"f": functions, b"s": judged(snippet), b"q": judged(educational),
             b"p": judged(package), b"x": judged(textbook)}
    while True:
        head = sys.stdin.buffer.read(10)
        if len(head) < 10:
            break
        text = sys.stdin.buffer.read(int(head[1:9])).decode("utf-8", "replace")
        try:
            answer = kinds[head[:1]](text)
        except (RecursionError, MemoryError):
            answer = {}
        line = json.dumps(answer, ensure_ascii=False) + "\n"
        sys.stdout.buffer.write(line.encode("utf-8", "replace"))  # texts may hold half a character
        sys.stdout.buffer.flush()


main()
