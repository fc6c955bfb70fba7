/* postprocess.c: fuzzes eval/postprocess.c: what a model wrote becomes a program. The first byte
 * chooses the task and the way; the program is made of the prompt and the text and nothing else.
 * And what is added to Java (eval/java.c). */

#include "../../eval/eval.h"
#include "fuzz.h"

static Tasks tasks;

void fuzz_begin(void) { tasks_open(&tasks, "tests/data/eval/plain.jsonl", false, NULL); }

void fuzz_one(const uint8_t *data, size_t size) {
    if (!size) return;
    PromptOptions o = { .chat = *data & 1 };
    Completion c = { .task = &tasks.task[(*data >> 2) % tasks.n] };
    buf_add(&c.text, data + 1, size - 1);
    postprocess(&c, *data & 2 ? POST_FENCE : POST_NONE, &o);
    if (c.program.n > c.text.n + c.task->prompt.n + 16)
        fuzz_fail("a program of %zu bytes", c.program.n);
    char name[128];
    java_main(&c.program, name);
    if (!*name || strlen(name) > 100) fuzz_fail("a class called '%s'", name);
    java_add_tuples(&c.program);
    refine_text(&c.text);
    buf_free(&c.text);
    buf_free(&c.program);
}
