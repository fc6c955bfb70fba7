/* grade.c: does an answer pass its tests? One answer, one Outcome.
 *
 * What to know first: there are three ways.
 *
 *  - Python with tests that are code: python_check. The tests run beside the program, in a process
 *    that it cannot reach; nothing that it does can make them pass but the right values.
 *  - Input and output, in any language: the program runs once for each input, and its output is
 *    compared here. It never sees what is expected.
 *  - Code in other languages: tests and program are one program in one box, as in MultiPL-E. Exit
 *    code 0 is success, so that a hostile program can forge it by exit(0); a table of scores says
 *    which ones were graded so.
 *
 * What is executed for HumanEval and MBPP is what OpenCodeEval executes, but that MBPP's
 * test_setup_code stands in front of the tests and not of the program: there, it uses a class that
 * only the program defines (tasks 367 and 927), and nothing passes.
 * Test: tests/test_evaluate.py. */
#include "eval.h"

const char *const verdict_name[N_VERDICTS] = {
    "not graded",   "passed", "wrong answer",      "exception", "time limit", "memory",
    "output limit", "syntax", "compilation error", "forbidden", "not run",
};

/* OpenCodeEval: benchmark/base.py. numpy only for who names it: it may not be there. */
static const char imports[] =
    "import math\nimport re\nimport sys\nimport copy\nimport datetime\nimport itertools\n"
    "import collections\nimport heapq\nimport functools\nimport hashlib\nimport string\n"
    "from typing import *\nfrom collections import *\n";
static const char numpy_imports[] = "import numpy\nimport numpy as np\n";

static bool mentions(Str text, const char *word) { return holds(text, str_of(word)); }

static Str buf_str(const Buf *b) { return (Str){ b->data ? b->data : "", b->n }; }

/* One printable line of a text, into a reason. */
static void add_reason(Outcome *o, const char *text, size_t n) {
    size_t at = strlen(o->reason);
    for (size_t i = 0; i < n && at + 1 < sizeof o->reason; i++)
        o->reason[at++] = (unsigned char)text[i] < 32 || text[i] == 127 ? ' ' : text[i];
    o->reason[at = utf8_complete(o->reason, at)] = 0;
}

/* ------------------------------------------------------------------------------------------------
 * Python and code */

/* Tests of a function by JSON: a line of input is an argument. What is a tuple is taken as a list,
 * as LiveCodeBench does. */
static void function_tests(const Task *k, Buf *tests) {
    bool method = mentions(k->starter, "class Solution");
    buf_add(tests, "import json\n_cases = ", 21);
    json_open(tests, '[');
    for (int i = 0; i < k->n_cases; i++) {
        json_open(tests, '[');
        json_put_str(tests, k->cases[i].input);
        json_put_str(tests, k->cases[i].output);
        json_close(tests, ']');
    }
    json_close(tests, ']');
    buf_printf(tests,
               "\nfor _input, _output in _cases:\n"
               "    _arguments = [json.loads(_line) for _line in _input.split('\\n') if _line]\n"
               "    _got = %s%.*s(*_arguments)\n"
               "    if isinstance(_got, tuple):\n"
               "        _got = list(_got)\n"
               "    assert _got == json.loads(_output)\n",
               method ? "Solution()." : "", STR(k->entry));
}

/* The three parts of a PythonTask. */
static void python_parts(const Completion *c, const GradeOptions *o, Buf *program, Buf *setup,
                         Buf *tests) {
    const Task *k = c->task;
    bool with_imports = !o->no_imports && k->kind != MULTIPLE && k->kind != PLAIN;
    if (with_imports) {
        buf_add(setup, imports, sizeof imports - 1);
        if (mentions(buf_str(&c->program), "np.") || mentions(buf_str(&c->program), "numpy") ||
            mentions(k->tests, "np.") || mentions(k->tests, "numpy"))
            buf_add(setup, numpy_imports, sizeof numpy_imports - 1);
    }
    if (k->kind == HUMANEVAL) {
        buf_add_str(setup, k->prompt);
        buf_add(setup, "\n    pass\n\n", 11);
    }
    buf_add_str(program, buf_str(setup));
    buf_add_str(program, buf_str(&c->program));
    if (k->n_cases) {
        function_tests(k, tests);
        return;
    }
    buf_add_str(tests, k->setup);
    buf_add(tests, "\n", 1);
    buf_add_str(tests, k->tests);
    buf_add(tests, "\n", 1);
    if (k->kind == HUMANEVAL) buf_printf(tests, "check(%.*s)\n", STR(k->entry));
}

static void grade_python(Completion *c, const GradeOptions *o, double seconds) {
    static const Verdict verdict[] = {
        [PY_PASSED] = PASSED,     [PY_WRONG] = WRONG_ANSWER, [PY_EXCEPTION] = EXCEPTION,
        [PY_TIMEOUT] = TIMEOUT,   [PY_MEMORY] = MEMORY,      [PY_SYNTAX] = SYNTAX,
        [PY_CHEATED] = VIOLATION, [PY_FAILED] = NOT_RUN
    };
    Buf program = { 0 }, setup = { 0 }, tests = { 0 }, entry = { 0 };
    PythonResult r = { 0 };
    python_parts(c, o, &program, &setup, &tests);
    buf_add_str(&entry, c->task->entry);
    PythonTask task = { .program = buf_str(&program),
                        .setup = buf_str(&setup),
                        .tests = buf_str(&tests),
                        .entry = entry.n && !strpbrk(entry.data, ".(") ? entry.data : NULL,
                        .seconds = seconds,
                        .memory = (uint64_t)o->memory << 20 };
    python_check(&task, &r);
    c->outcome.verdict = verdict[r.verdict];
    c->outcome.seconds = r.seconds;
    add_reason(&c->outcome, r.message, strlen(r.message));
    buf_free(&program);
    buf_free(&setup);
    buf_free(&tests);
    buf_free(&entry);
}

/* ------------------------------------------------------------------------------------------------
 * Output against expected output: as LiveCodeBench compares them */

/* Takes the first word off the front, and the one character of white space behind it. */
static Str take_word(Str *rest) {
    Str word = { rest->s, 0 };
    while (word.n < rest->n && !isspace((unsigned char)rest->s[word.n])) word.n++;
    size_t skip = word.n + (word.n < rest->n);
    rest->s += skip, rest->n -= skip;
    return word;
}

/* The same number, where one of the texts has a point or an exponent. */
static bool same_number(Str a, Str b) {
    char text[2][64], *end[2];
    double value[2];
    if (a.n == 0 || b.n == 0 || a.n > 63 || b.n > 63) return false;
    snprintf(text[0], 64, "%.*s", (int)a.n, a.s);
    snprintf(text[1], 64, "%.*s", (int)b.n, b.s);
    if (!strpbrk(text[0], ".eE") && !strpbrk(text[1], ".eE")) return false;
    for (int i = 0; i < 2; i++) {
        if (strspn(text[i], "+-0123456789.eE") != strlen(text[i])) return false;
        value[i] = strtod(text[i], &end[i]);
        if (*end[i]) return false;
    }
    return value[0] == value[1];
}

static bool same_line(Str a, Str b) {
    a = strip(a), b = strip(b);
    if (!str_cmp(a, b)) return true;
    while (a.n && b.n) {
        Str x = take_word(&a), y = take_word(&b);
        if (str_cmp(x, y) && !same_number(x, y)) return false;
        a = strip(a), b = strip(b);
    }
    return a.n == b.n;
}

static bool same_output(Str got, Str want) {
    got = strip(got), want = strip(want);
    while (got.n && want.n)
        if (!same_line(take_line(&got), take_line(&want))) return false;
    return got.n == want.n;
}

/* ------------------------------------------------------------------------------------------------
 * Programs in a box */

/* Does what a program said tell that a test failed, rather than the program? */
static bool failed_assertion(const SandboxResult *r) {
    static const char *const word[] = { "ssert", "--- FAIL", "Test failed" };
    for (int i = 0; i < 3; i++)
        if (mentions(buf_str(&r->err), word[i]) || mentions(buf_str(&r->out), word[i])) return true;
    return false;
}

/* C#'s Debug.Assert writes where it failed and lets the program go on, to an exit code of 0. */
static bool failed_silently(const Completion *c, const SandboxResult *r) {
    return !strcmp(c->task->language->name, "csharp") && !c->task->n_cases &&
           mentions(buf_str(&r->err), "TraceListener.Fail");
}

/* The line of stderr that says most: Python's last one, others' first one. */
static void add_stderr(Outcome *o, const SandboxResult *r, bool last) {
    Str s = strip(buf_str(&r->err)), line = s;
    if (!s.n) s = strip(buf_str(&r->out));
    while (s.n) {
        line = take_line(&s);
        if (!last && (mentions(line, "rror") || mentions(line, "ssert") || mentions(line, "panic")))
            break;
    }
    add_reason(o, line.s, line.n);
}

/* Ended by itself, but not well. */
static Verdict exit_verdict(const Completion *c, const SandboxResult *r) {
    Str err = buf_str(&r->err);
    if (is_python(c->task) && (mentions(err, "SyntaxError:") ||
                               mentions(err, "IndentationError:") || mentions(err, "TabError:")))
        return SYNTAX;
    if (mentions(err, "MemoryError") || mentions(err, "bad_alloc") ||
        mentions(err, "OutOfMemoryError") || mentions(err, "heap out of memory"))
        return MEMORY;
    return failed_assertion(r) && !c->task->n_cases ? WRONG_ANSWER : EXCEPTION;
}

static bool program_done(void *arg, int i, bool built, const SandboxResult *r) {
    Completion *c = arg;
    Outcome *o = &c->outcome;
    const Task *k = c->task;
    o->seconds += r->seconds;
    o->reason[0] = 0;
    if (k->n_cases > 1) snprintf(o->reason, sizeof o->reason, "test %d: ", i + 1);
    size_t head = strlen(o->reason);
    switch (r->reason) {
    case RUN_FAILED: o->verdict = NOT_RUN; break;
    case RUN_TIMEOUT: o->verdict = built ? TIMEOUT : BUILD; break;
    case RUN_MEMORY: o->verdict = built ? MEMORY : BUILD; break;
    case RUN_OUTPUT: o->verdict = built ? OUTPUT_LIMIT : BUILD; break;
    case RUN_SIGNAL:
        o->verdict = !built ? BUILD : r->code == SIGSYS ? VIOLATION : exit_verdict(c, r);
        add_stderr(o, r, false);
        break;
    default:
        o->verdict = !built                  ? BUILD
                     : r->code               ? exit_verdict(c, r)
                     : failed_silently(c, r) ? WRONG_ANSWER
                                             : PASSED;
        if (o->verdict != PASSED) add_stderr(o, r, is_python(k));
    }
    if (o->verdict == PASSED && k->n_cases && !same_output(buf_str(&r->out), k->cases[i].output)) {
        o->verdict = WRONG_ANSWER;
        Str got = strip(buf_str(&r->out)), want = strip(k->cases[i].output);
        add_reason(o, "got '", 5);
        add_reason(o, got.s, got.n < 60 ? got.n : 60);
        add_reason(o, "', expected '", 13);
        add_reason(o, want.s, want.n < 60 ? want.n : 60);
        add_reason(o, "'", 1);
    }
    if (o->verdict == PASSED)
        o->reason[0] = 0;
    else if (strlen(o->reason) == head)
        add_reason(o, r->message, strlen(r->message));
    return o->verdict == PASSED;
}

static void grade_program(Completion *c, const Language *l, const GradeOptions *o, double seconds) {
    const Task *k = c->task;
    Buf source = { 0 };
    Str *input = xcalloc((size_t)k->n_cases, sizeof *input, "tests");
    for (int i = 0; i < k->n_cases; i++) input[i] = k->cases[i].input;
    buf_add_str(&source, buf_str(&c->program));
    if (!k->n_cases) {
        buf_add(&source, "\n", 1);
        buf_add_str(&source, k->tests);
        buf_add(&source, "\n", 1);
    }
    ProgramJob job = { buf_str(&source), input, k->n_cases, seconds, (uint64_t)o->memory << 20 };
    language_run(l, &job, program_done, c);
    buf_free(&source);
    free(input);
}

/* ------------------------------------------------------------------------------------------------
 * Any answer */

void grade_open(const GradeOptions *o) {
    SandboxOptions options = { .unsafe = o->unsafe };
    Error e;
    if (!sandbox_open(&options, &e)) die("sandbox: %s", e.text);
    Protections p = sandbox_protections();
    if ((p.granted & PROTECT_ALL) != PROTECT_ALL && !o->quiet) fprintf(stderr, "%s\n", p.text);
}

static bool is_python_code(const Task *k) { return is_python(k) && (!k->n_cases || k->entry.n); }

void grade(Completion *c, const GradeOptions *o) {
    const Task *k = c->task;
    double seconds = o->timeout > 0 ? o->timeout : k->timeout;
    const char *why;
    memset(&c->outcome, 0, sizeof c->outcome);
    if (is_python_code(k)) {
        grade_python(c, o, seconds);
        return;
    }
    const Language *l = language_here(k->language, &why);
    if (l) {
        grade_program(c, l, o, seconds);
    } else {
        c->outcome.verdict = NOT_RUN;
        snprintf(c->outcome.reason, sizeof c->outcome.reason, "%s: %.150s", k->language->name, why);
    }
}

static uint32_t add_crc(uint32_t crc, Str s) {
    return crc32c(crc32c(crc, &s.n, sizeof s.n), s.s, s.n);
}

uint32_t grade_key(const Completion *c, const GradeOptions *o) {
    const Task *k = c->task;
    double seconds = o->timeout > 0 ? o->timeout : k->timeout;
    uint32_t crc = add_crc(0, str_of(OC_VERSION));
    crc = add_crc(crc, str_of(k->language->name));
    const Str part[] = {
        buf_str(&c->program), k->prompt, k->entry, k->setup, k->starter, k->tests
    };
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) crc = add_crc(crc, part[i]);
    for (int i = 0; i < k->n_cases; i++)
        crc = add_crc(add_crc(crc, k->cases[i].input), k->cases[i].output);
    crc = crc32c(crc, &seconds, sizeof seconds);
    crc = crc32c(crc, &o->memory, sizeof o->memory);
    return crc32c(crc, &o->no_imports, sizeof o->no_imports);
}
