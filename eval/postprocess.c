/* postprocess.c: from what a model wrote to a program.
 *
 * What to know first: a base model goes on behind the end of its answer, and a chat model talks
 * around it. Three ways to find the program, --postprocess:
 *
 *   none           the text as it is, behind the prompt where it continues one: for answers from
 *                  elsewhere that are finished, and what openai/human-eval does
 *   fence          a chat's block of code (the first that has the function, or else the longest);
 *                  a base model's text up to a closing fence
 *   opencodeeval   Python only: what OpenCodeEval/src/sanitize.py does, byte for byte, by Python's
 *                  own parser in a box; needs Python. The default for what our models write
 *
 * opencodeeval keeps, of the longest run of lines that Python can parse (of the first 100),
 * imports, classes, functions with a return, and assignments, and of these only what the entry
 * point needs. So it loses functions without return, and names behind a dot: f(x).strip() does not
 * need f. fence has none of these traps. Test: tests/test_evaluate.py. */
#include "eval.h"

const char post_names[] = "none, fence or opencodeeval";

int post_find(const char *name) {
    static const char *const names[] = { "none", "fence", "opencodeeval" };
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, names[i])) return i;
    return -1;
}

/* Reads the entry point, a line, and the text; writes the program. A run of lines is tried in the
 * order of lines that are not blank, most first, then of its first line, then of its last. */
static const char sanitize[] =
    "import ast, sys\n"
    "sys.stdin.reconfigure(encoding='utf-8', errors='replace', newline='')\n"
    "sys.stdout.reconfigure(encoding='utf-8', errors='replace', newline='')\n"
    "entry, text = sys.stdin.read().split('\\n', 1)\n"
    "lines = text.splitlines()[:100]\n"
    "solid = [0]\n"
    "for line in lines:\n"
    "    solid.append(solid[-1] + bool(line.strip()))\n"
    "n = len(lines)\n"
    "runs = sorted((solid[i] - solid[j], i, j) for i in range(n) for j in range(i + 1, n + 1))\n"
    "body = []\n"
    "for count, i, j in runs:\n"
    "    if count == 0:\n"
    "        break\n"
    "    try:\n"
    "        body = ast.parse('\\n'.join(lines[i:j])).body\n"
    "        break\n"
    "    except (SyntaxError, ValueError, MemoryError, RecursionError):\n"
    "        pass\n"
    "def returns(node):\n"
    "    return any(isinstance(part, ast.Return) for part in ast.walk(node))\n"
    "imports, defined = [], {}\n"
    "for node in body:\n"
    "    if isinstance(node, (ast.Import, ast.ImportFrom)):\n"
    "        imports.append(node)\n"
    "    elif isinstance(node, ast.ClassDef):\n"
    "        defined[node.name] = node\n"
    "    elif isinstance(node, ast.FunctionDef) and returns(node):\n"
    "        defined[node.name] = node\n"
    "    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):\n"
    "        defined[node.targets[0].id] = node\n"
    "def needs(node):\n"
    "    names, todo = set(), [node]\n"
    "    while todo:\n"
    "        for child in ast.iter_child_nodes(todo.pop()):\n"
    "            if isinstance(child, ast.Name):\n"
    "                names.add(child.id)\n"
    "            elif isinstance(child, ast.Attribute):\n"
    "                names.add(child.attr)  # what is left of the dot is not looked at\n"
    "            else:\n"
    "                todo.append(child)\n"
    "    return names\n"
    "kept, todo = set(), {entry} if entry else set(defined)\n"
    "while todo:\n"
    "    name = todo.pop()\n"
    "    kept.add(name)\n"
    "    if name in defined:\n"
    "        todo |= needs(defined[name]) - kept\n"
    "out = imports + [node for name, node in defined.items() if name in kept]\n"
    "print('\\n'.join(map(ast.unparse, out)), end='')\n";

static void run_sanitize(Completion *c, const PromptOptions *o) {
    const Task *k = c->task;
    Buf text = { 0 }, input = { 0 };
    SandboxResult r;
    const char *argv[] = { sandbox_python(), "-I", "-S", "-c", sanitize, NULL };
    if (!argv[0]) die("--postprocess opencodeeval: no python3 in PATH, expected it; or use fence");
    if (!o->chat && !k->whole) {
        buf_add(&text, k->prompt.s, k->prompt.n);
        refine_text(&text);
        buf_add(&text, "\n\n", 2);
    }
    buf_add(&text, c->text.data, c->text.n);
    refine_text(&text);
    if (k->kind == HUMANEVAL) buf_add(&input, k->entry.s, k->entry.n);
    buf_add(&input, "\n", 1);
    buf_add(&input, text.data, text.n);
    SandboxJob job = {
        .argv = argv, .input = { input.data, input.n }, .seconds = 30, .output = 1 << 20
    };
    sandbox_run(&job, &r);
    if (r.reason == RUN_FAILED) die("--postprocess opencodeeval: %s", r.message);
    if (r.reason == RUN_EXIT && r.code == 0) buf_add(&c->program, r.out.data, r.out.n);
    sandbox_free(&r);
    buf_free(&text);
    buf_free(&input);
}

/* ------------------------------------------------------------------------------------------------
 * Blocks of code */

static bool is_fence(Str line) {
    while (line.n && *line.s == ' ') line.s++, line.n--;
    return line.n >= 3 && !memcmp(line.s, "```", 3);
}

/* What stands before the first fence. */
static Str until_fence(Str text) {
    Str rest = text;
    while (rest.n) {
        const char *at = rest.s;
        if (is_fence(take_line(&rest))) return (Str){ text.s, (size_t)(at - text.s) };
    }
    return text;
}

/* The block that is the answer; one that is not closed goes on to the end. No block: all of it. */
static Str find_block(Str text, Str entry) {
    Str best = { NULL, 0 }, rest = text;
    while (rest.n) {
        if (!is_fence(take_line(&rest))) continue;
        Str block = until_fence(rest);
        rest.s += block.n, rest.n -= block.n;
        take_line(&rest);
        if (holds(block, entry)) return block;
        if (!best.s || block.n > best.n) best = block;
    }
    return best.s ? best : text;
}

/* The last line of a prompt that is not blank: where the answer goes on. */
static Str last_line(Str prompt) {
    Str last = { "", 0 };
    while (prompt.n) {
        Str line = strip(take_line(&prompt));
        if (line.n) last = line;
    }
    return last;
}

/* A chat repeats what it was to continue: only what stands behind the prompt's last line, up to
 * the end of the function, goes into the place of a continuation. */
static Str continuation(const Task *k, Str block) {
    Str begin = last_line(k->prompt), body = block;
    const char *at = begin.n ? memmem(block.s, block.n, begin.s, begin.n) : NULL;
    if (at) {
        body.s = at + begin.n;
        body.n = (size_t)(block.s + block.n - body.s);
        if (body.n && *body.s == '\n') body.s++, body.n--;
    }
    for (int i = 0; i < k->n_stop; i++) {
        const char *hit = k->stop[i].n ? memmem(body.s, body.n, k->stop[i].s, k->stop[i].n) : NULL;
        if (hit) body.n = (size_t)(hit - body.s);
    }
    return body;
}

static void fence(Completion *c, const PromptOptions *o) {
    const Task *k = c->task;
    Str text = { c->text.data, c->text.n }, block = o->chat ? find_block(text, k->entry) : text;
    if (!o->chat) block = until_fence(text);
    bool defines = is_python(k) && o->chat && holds(block, k->entry.n ? k->entry : str_of("def "));
    if (!k->whole && o->chat && !is_python(k)) block = continuation(k, block);
    if (!k->whole && k->kind != HUMANEVAL) { /* grade.c has HumanEval's prompt in front anyway */
        buf_add(&c->program, k->prompt.s, k->prompt.n);
        if (defines) buf_add(&c->program, "\n    pass\n\n", 11);
    } else if (!k->whole && !defines) {
        buf_add(&c->program, k->prompt.s, k->prompt.n);
    }
    buf_add(&c->program, block.s, block.n);
}

void postprocess(Completion *c, int how, const PromptOptions *o) {
    const Task *k = c->task;
    c->program.n = 0;
    buf_add(&c->program, "", 0);
    buf_add(&c->text, "", 0);
    if (how == POST_OPENCODEEVAL && is_python(k)) {
        run_sanitize(c, o);
    } else if (how != POST_NONE) {
        fence(c, o);
    } else {
        if (!k->whole) buf_add(&c->program, k->prompt.s, k->prompt.n);
        buf_add(&c->program, c->text.data, c->text.n);
    }
}
