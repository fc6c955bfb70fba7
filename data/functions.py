"""functions.py: the functions of a Python file for ./refine instruct (data/instruct.c), and what is
to be run to try them out.

What to know first. With answers.py behind it, this is one program. It reads requests from standard
input, a letter for the kind, the number of bytes in 8 digits, a line feed and the text, and answers
each with a line of JSON:

    f            a file: {"functions": [...]}, or {} where it does not parse
    s, q, p, x   what a model wrote: a snippet, an exercise, one about a library, a textbook:
                 {"text", "question", "output", "program", "tests", "stub"}, or {"why"} it is not
                 taken; see answers.py

Nothing of a text is ever executed here. What is to be executed comes in two halves: the program,
which the sandbox's worker runs, and the tests, which its checker runs (eval/sandbox.h). Examples of
a docstring are as strange as the function, so the worker runs them too; to the checker they are
data, and it alone compares. Tests: tests/test_instruct.py, test_synth.py."""

import ast
import builtins
import json
import re
import symtable
import sys
import textwrap

FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef

# ------------------------------------------------------------------------ the names that code needs


def table_names(table):
    """The names that a table of symbols and those in it take from the module or the built-ins."""
    top = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (symbol.is_global() or top and not symbol.is_assigned()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from table_names(child)


def needed_names(code):
    table = symtable.symtable(code, "<code>", "exec")
    defined = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or
               s.is_namespace()}
    return set(table_names(table)) - defined - set(dir(builtins))


def is_literal(node):
    try:
        ast.literal_eval(node)
        return True
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False


def module_names(tree, lines):
    """What a function may take along: name -> (line, source) of imports that work anywhere, and of
    names that are given one short literal."""
    found, given = {}, {}
    for node in tree.body:
        names = []
        if isinstance(node, ast.Import):
            for alias in node.names:
                source = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
                found[(alias.asname or alias.name).split(".")[0]] = node.lineno, source
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__":
            for alias in node.names:
                source = f"from {node.module} import {alias.name}" + (
                    f" as {alias.asname}" if alias.asname else "")
                found[alias.asname or alias.name] = node.lineno, source
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        for name in names:
            given.setdefault(name, []).append(node)
    for name, nodes in given.items():
        node = nodes[0]
        if len(nodes) == 1 and isinstance(node, ast.Assign) and len(node.targets) == 1 and \
                isinstance(node.targets[0], ast.Name) and is_literal(node.value) and \
                node.end_lineno - node.lineno < 5 and node.col_offset == 0:
            found[name] = node.lineno, "\n".join(lines[node.lineno - 1:node.end_lineno])
    return found


def sources(names, known):
    """The lines that define those of the names that are known: imports, then the rest."""
    wanted = sorted({known[name] for name in names if name in known})
    imports = [s for _, s in wanted if s.startswith(("import ", "from "))]
    rest = [s for _, s in wanted if not s.startswith(("import ", "from "))]
    return "\n\n".join("\n".join(part) for part in (imports, rest) if part)


# --------------------------------------------------------------------------------------- functions


def without_docstring(node, lines):
    """The source of a function, decorators included and docstring cut out; None where that cannot
    be done by lines."""
    doc = node.body[0]
    if len(node.body) < 2 or doc.lineno == node.lineno or node.body[1].lineno <= doc.end_lineno:
        return None
    first = min([node.lineno] + [d.lineno for d in node.decorator_list])
    before, after = lines[first - 1:doc.lineno - 1], lines[doc.end_lineno:node.end_lineno]
    while after and not after[0].strip():
        after.pop(0)
    code = textwrap.dedent("\n".join(line.rstrip() for line in before + after)).strip("\n")
    try:
        parsed = ast.parse(code).body
    except (SyntaxError, ValueError):
        return None
    return code if len(parsed) == 1 and parsed[0].name == node.name else None


def is_empty(body):
    """Is there nothing in it but pass, ..., a text, or the news that it is not there?"""
    for node in body:
        value = getattr(node, "exc", None) or getattr(node, "value", None)
        value = value.func if isinstance(value, ast.Call) else value
        name = getattr(value, "id", "")
        if not (isinstance(node, ast.Pass) or
                isinstance(node, ast.Expr) and isinstance(value, ast.Constant) or
                isinstance(node, ast.Return) and (value is None or name == "NotImplemented" or
                                                  getattr(value, "value", 0) is None) or
                isinstance(node, ast.Raise) and name == "NotImplementedError"):
            return False
    return True


STUBS = {"overload", "abstractmethod", "abstractproperty", "fixture", "setter", "deleter"}


def structure_fault(node, place):
    """Why a function is no good as an answer, whatever its docstring says; "" where it is."""
    decorators = {getattr(n, "attr", getattr(n, "id", "")) for d in node.decorator_list
                  for n in ast.walk(d)}
    if place == "nested":
        return "nested in a function"
    if not ast.get_docstring(node):
        return "no docstring"
    if node.name.startswith("__") or node.name.startswith(("test_", "Test")):
        return "special method or test"
    if decorators & STUBS:
        return "stub by its decorator"
    return "empty body" if is_empty(node.body[1:]) else ""


HEADING = re.compile(r"(args|arguments|parameters?|params|returns?|raises|yields?|examples?|notes?|"
                     r"usage|see also|references|attributes|keyword args|todo)\s*:?(\n[-=~]{3,})?$",
                     re.IGNORECASE)


def clean(docstring):
    """Without the indentation that it has because it stands in a function."""
    first, _, rest = docstring.expandtabs().partition("\n")
    return (first.strip() + "\n" + textwrap.dedent(rest)).strip("\n")


def description(docstring, name):
    """The first paragraphs of a docstring, up to what is no prose, as one line; about 400
    characters where more than one of them is taken."""
    text = ""
    for paragraph in re.split(r"\n\s*\n", clean(docstring)):
        lines = paragraph.strip().split("\n")
        if re.match(r"[:@>.*|+\-#]|\d+[.)]", lines[0]) or HEADING.match(paragraph.strip()) or \
                HEADING.match(lines[0].strip()):
            break
        if not text and re.match(rf"{re.escape(name)}\(.*\)( *->.*)?$", lines[0]):
            lines.pop(0)  # the signature again
        line = " ".join(" ".join(lines).split())
        if text and len(text) + len(line) > 400 or line.endswith("::"):
            break
        text = (text + " " + line).strip()
    return text


# ------------------------------------------------------------------------ examples of a docstring

RUN_EXAMPLE = '''

def opencoder_example(source):
    import contextlib, io, traceback
    text, error = io.StringIO(), None
    with contextlib.redirect_stdout(text):
        try:
            exec(compile(source, "<example>", "single"), globals())
        except BaseException as e:
            error = traceback.format_exception_only(type(e), e)[-1]
    return [text.getvalue(), error]
'''

CHECK_EXAMPLES = '''
import re

def same(got, want, options):
    if not want or want[-1] != "\\n": want += "\\n"
    if got and got[-1] != "\\n": got += "\\n"
    want = re.sub(r"(?m)^<BLANKLINE>[ ]*$", "", want)
    if "NORMALIZE_WHITESPACE" in options:
        got, want = " ".join(got.split()), " ".join(want.split())
    if got == want: return True
    if "ELLIPSIS" not in options or "..." not in want: return False
    first, *middle, last = want.split("...")
    if not (got.startswith(first) and got.endswith(last)): return False
    at, end = len(first), len(got) - len(last)
    for part in middle:
        at = got.find(part, at, end)
        if at < 0: return False
        at += len(part)
    return at <= end

def matches(example, got):
    source, want, error, options = example
    if type(got) is not list or len(got) != 2 or type(got[0]) is not str: return False
    if error is None:
        return got[1] is None and (same(got[0], want, options) if want else not got[0])
    if type(got[1]) is not str: return False
    if "IGNORE_EXCEPTION_DETAIL" in options:
        names = [re.match(r"[\\w.]*", text)[0].rpartition(".")[2] for text in (error, got[1])]
        return names[0] == names[1]
    return same(got[1], error, options)

for example in EXAMPLES:
    assert matches(example, opencoder_example(example[0])), example[0]
'''

OPTIONS = "ELLIPSIS", "NORMALIZE_WHITESPACE", "IGNORE_EXCEPTION_DETAIL", "SKIP"


def without_import(source, name):
    """An example without the import of the function itself, which is there."""
    if "import" not in source or name not in source:
        return source
    try:
        (node,) = ast.parse(source).body
    except (SyntaxError, ValueError):
        return source
    if not isinstance(node, ast.ImportFrom) or name not in [alias.name for alias in node.names]:
        return source
    node.names = [alias for alias in node.names if alias.name != name]
    return ast.unparse(node) + "\n" if node.names else ""


def examples_of(docstring, name):
    """[source, expected output, expected exception or None, options] of each; [] where none of them
    has a result of a call of the function, or doctest would take one in another way."""
    found, tested = [], False
    if ">>>" not in docstring:
        return []
    import doctest  # which takes longer to load than all the rest
    known = {getattr(doctest, option): option for option in OPTIONS}
    try:
        examples = doctest.DocTestParser().get_examples(docstring.expandtabs())
    except ValueError:
        return []
    for example in examples:
        options = [known.get(flag) for flag, on in example.options.items() if on]
        if None in options:
            return []
        if "SKIP" in options:
            continue
        source = without_import(example.source, name)
        if not source:
            continue
        called = re.search(rf"\b{re.escape(name)}\s*\(", source)
        tested = tested or called and bool(example.want or example.exc_msg)
        found.append([source, example.want, example.exc_msg, options])
    return found if tested else []


def shown_examples(docstring, examples):
    """The first few as a reader of the task may see them."""
    text = ""
    for source, want, error, options in examples[:3]:
        lines = source.rstrip("\n").split("\n")
        part = ">>> " + "\n... ".join(lines) + "\n" + want
        if error or options or len(text) + len(part) > 500:
            break
        text += part
    return text.rstrip("\n")


# ----------------------------------------------------------------------------------- kind f: a file


def describe(node, place, owner, lines, known):
    """A function as instruct.c takes it; with "why", it is of no use."""
    found = {"name": node.name, "line": node.lineno, "why": structure_fault(node, place)}
    if found["why"]:
        return found
    docstring = node.body[0].value.value
    code = without_docstring(node, lines)
    if code is None:
        return {**found, "why": "docstring not on lines of its own"}
    needed = needed_names(code)
    examples = examples_of(docstring, node.name) if place == "module" else []
    more = set()
    for example in examples:
        try:
            more |= needed_names(example[0])
        except (SyntaxError, ValueError):
            pass
    own = sources(needed, known)
    start = "async def " if isinstance(node, ast.AsyncFunctionDef) else "def "
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    found.update(
        owner=owner, start=start, signature=f"{node.name}({ast.unparse(node.args)}){returns}",
        doc=description(docstring, node.name), code=own + "\n\n\n" + code if own else code,
        alone=not needed - set(known), shown=shown_examples(docstring, examples))
    if examples:
        program = sources(needed | more - {node.name}, known)
        found.update(program=program + "\n\n\n" + code + "\n" + RUN_EXAMPLE,
                     tests=f"EXAMPLES = {examples!r}\n" + CHECK_EXAMPLES)
    return found


def walk(body, place, owner):
    """Every function beneath: (node, place, the class it stands in)."""
    for node in body:
        if isinstance(node, FUNCTIONS):
            yield node, place, owner
            yield from walk(node.body, "nested", owner)
        elif isinstance(node, ast.ClassDef):
            inner = "nested" if place == "nested" else "class"
            yield from walk(node.body, inner, node.name)
        else:
            for name in ("body", "orelse", "finalbody", "handlers"):
                inner = getattr(node, name, None)
                if isinstance(inner, list):
                    yield from walk(inner, place, owner)


def functions(text):
    try:
        tree = ast.parse(text)
        symtable.symtable(text, "<file>", "exec")  # finds what is no error of the grammar
    except (SyntaxError, ValueError):
        return {}
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    known = module_names(tree, lines)
    return {"functions": [describe(node, place, owner, lines, known)
                          for node, place, owner in walk(tree.body, "module", "")]}
