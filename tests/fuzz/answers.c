/* answers.c: fuzzes eval/store.c: answers from elsewhere, and what an earlier run has left. */

#include "../../eval/eval.h"
#include "fuzz.h"

static Tasks tasks;

void fuzz_begin(void) { tasks_open(&tasks, "tests/data/eval/plain.jsonl", false, NULL); }

static uint32_t key(const Completion *c) { return c->run; }

/* The same bytes as completions.jsonl or results.jsonl of a run that is taken up. */
static void resume(const char *path, bool results) {
    Completions all = { NULL, 0, 0 };
    for (size_t i = 0; i < tasks.n; i++) completions_add(&all, &tasks.task[i], 0);
    size_t n =
        results ? results_resume(&all, &tasks, path, key) : completions_resume(&all, &tasks, path);
    if (n > all.n) fuzz_fail("%zu of %zu answers taken up", n, all.n);
    completions_free(&all);
}

void fuzz_one(const uint8_t *data, size_t size) {
    Completions all = { NULL, 0, 0 };
    if (!size) return;
    const char *path = fuzz_file(data + 1, size - 1);
    if (*data % 3) {
        resume(path, *data % 3 == 1);
        return;
    }
    completions_read(&all, &tasks, path);
    for (size_t i = 0; i < all.n; i++) {
        Buf line = { NULL, 0, 0 };
        put_completion(&line, &all.c[i]);
        buf_free(&line);
    }
    completions_free(&all);
}
