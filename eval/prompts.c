/* prompts.c: what a model is asked, and where its answer ends.
 *
 * What to know first: for HumanEval, MBPP and MBPP+ the prompts, the stop texts and the limits are
 * those of OpenCodeEval (OpenCoder-llm, OpenCodeEval/src), byte for byte, so that figures can be
 * compared with the paper's. For MultiPL-E the prompt is the file's own. LiveCodeBench's wording is
 * ours. Three things OpenCodeEval does by accident; they are done only with --opencodeeval:
 *
 *  - its chat template loses the very first <|im_start|>, because that text is also the name of
 *    the tokenizer's BOS token, which it strips (generate.c);
 *  - prompt and answer together have as many tokens as the answer alone may have (generate.c);
 *  - chats end at a closing fence, also of a block that is not the answer.
 *
 * Test: tests/test_evaluate.py compares them with recorded ones. */
#include "eval.h"

/* OpenCodeEval: benchmark/base.py. The first three are end tokens written as text; the last one is
 * the end of a block of code. */
static const char *const general_stops[] = { "<|endoftext|>", "<|endofmask|>", "</s>",
                                             "\nif __name__", "\ndef main(",   "\nprint(",
                                             "\n```\n" };
static const char *const base_stops[] = { "\ndef ", "\nclass ", "\nimport ", "\nfrom ",
                                          "\nassert " };

static void add(Buf *out, const char *text) { buf_add(out, text, strlen(text)); }

/* What Python's str.strip takes for space, of ASCII. */
static bool is_space(char c) { return (c >= 9 && c <= 13) || (c >= 28 && c <= 32); }

void refine_text(Buf *text) {
    Buf out = { 0 };
    const char *s = text->data ? text->data : "", *end = s + text->n;
    while (s < end && is_space(*s)) s++;
    while (end > s && is_space(end[-1])) end--;
    for (; s < end; s++) {
        if (*s == '\t')
            buf_add(&out, "    ", 4);
        else if (*s != '\r')
            buf_add(&out, s, 1);
        else if (s + 1 == end || s[1] != '\n')
            buf_add(&out, "\n", 1);
    }
    buf_add(&out, "\n", 1);
    buf_free(text);
    *text = out;
}

/* Appends text as refine_text leaves it. */
static void add_refined(Buf *out, Str text) {
    Buf b = { 0 };
    buf_add_str(&b, text);
    refine_text(&b);
    buf_add(out, b.data, b.n);
    buf_free(&b);
}

/* One problem of MBPP, as an example with its code or as the one to solve. */
static void add_mbpp(Buf *out, const Task *task, bool with_code) {
    add(out, "You are an expert Python programmer, and here is your task:\n");
    add_refined(out, task->prompt);
    add(out, "Your code should pass these tests:\n");
    for (int i = 0; i < task->n_list; i++) {
        buf_add_str(out, task->list[i]);
        add(out, "\n");
    }
    add(out, "\n```python\n");
    if (!with_code) return;
    add_refined(out, task->solution);
    add(out, "\n```\n");
}

static void mbpp_prompt(const Tasks *t, const Task *task, const PromptOptions *o, Buf *out) {
    if (!o->zero_shot && t->n_shots < 3)
        die("%s: tasks 1, 2 and 3 are not in it, expected them as examples; or --zero-shot",
            t->path);
    for (int i = 0; i < t->n_shots && !o->zero_shot; i++) {
        add_mbpp(out, &t->shot[i], true);
        add(out, "\n");
    }
    add_mbpp(out, task, false);
}

/* What a fence is called: ```python. */
static void add_fence(Buf *out, const Task *task) {
    add(out, "```");
    add(out, task->language->name);
    add(out, "\n");
}

static void livecode_prompt(const Task *task, const PromptOptions *o, Buf *out) {
    add(out, "Write a program in ");
    add(out, task->language->name);
    add(out, " that solves this problem.\n\n");
    add_refined(out, task->prompt);
    if (task->starter.n) {
        add(out, "\nBegin with this code:\n");
        add_fence(out, task);
        add_refined(out, task->starter);
        add(out, "```\n");
    } else {
        add(out, "\nRead from standard input and write to standard output.\n");
    }
    if (o->chat) {
        add(out, "Answer with all of the code in one markdown code block.\n");
    } else {
        add(out, "\n");
        add_fence(out, task);
    }
}

/* Code to be completed, as it is, or as a chat's question. */
static void code_prompt(const Task *task, const PromptOptions *o, Buf *out) {
    bool python = is_python(task);
    if (!o->chat) {
        python && !task->whole ? add_refined(out, task->prompt) : buf_add_str(out, task->prompt);
        return;
    }
    if (o->prefix) {
        add(out, o->prefix);
    } else if (!task->whole) {
        if (python)
            add(out, "Please provide a self-contained Python script that solves the following "
                     "problem in a markdown code block:\n");
        else
            add(out, "Please complete the following program, and answer with all of it in a "
                     "markdown code block:\n");
        add_fence(out, task);
    }
    buf_add_str(out, task->prompt);
    if (o->suffix)
        add(out, o->suffix);
    else if (!task->whole)
        add(out, "\n```\n");
}

static bool in_opencodeeval(const Task *task) {
    return task->kind == HUMANEVAL || task->kind == MBPP || task->kind == MBPP_PLUS;
}

void prompt_text(const Tasks *t, const Task *task, const PromptOptions *o, Buf *out) {
    Buf b = { 0 };
    buf_add(&b, "", 0);
    if (task->kind == MBPP) {
        mbpp_prompt(t, task, o, &b);
    } else if (task->kind == MBPP_PLUS) {
        buf_add_str(&b, task->prompt);
        add(&b, "\n");
        buf_add_str(&b, task->list[0]);
    } else if (task->kind == LIVECODE) {
        livecode_prompt(task, o, &b);
    } else {
        code_prompt(task, o, &b);
    }
    if (in_opencodeeval(task) || o->chat) refine_text(&b);
    buf_add(out, b.data, b.n);
    buf_free(&b);
}

int prompt_stops(const Task *task, const PromptOptions *o, Str stop[MAX_STOPS]) {
    int n = 0, n_general = sizeof general_stops / sizeof *general_stops;
    int n_base = sizeof base_stops / sizeof *base_stops;
    bool continues_python = is_python(task) && !task->whole;
    if (!in_opencodeeval(task) && !continues_python) n_general = 3, n_base = 0; /* end tokens */
    for (int i = 0; i < n_general; i++)
        if (!o->chat || o->compat || strcmp(general_stops[i], "\n```\n"))
            stop[n++] = str_of(general_stops[i]);
    if (!o->chat && task->kind == LIVECODE) stop[n++] = str_of("\n```");
    for (int i = 0; i < n_base && !o->chat; i++) stop[n++] = str_of(base_stops[i]);
    for (int i = 0; i < task->n_stop && !o->chat && n < MAX_STOPS; i++)
        if (task->stop[i].n) stop[n++] = task->stop[i];
    return n;
}
