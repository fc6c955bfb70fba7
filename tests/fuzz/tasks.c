/* tasks.c: fuzzes eval/tasks.c, task files of every benchmark, and the prompts that are made of
 * them (eval/prompts.c). The first byte chooses a base or a chat model, and whose tests count. */

#include "../../eval/eval.h"
#include "fuzz.h"

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) {
    Tasks t;
    PromptOptions o = { 0 };
    Str stop[MAX_STOPS];
    if (!size) return;
    o.chat = *data & 1, o.zero_shot = *data & 4, o.compat = *data & 8;
    tasks_open(&t, fuzz_file(data + 1, size - 1), *data & 2, NULL);
    for (size_t i = 0; i < t.n; i++) {
        Buf prompt = { NULL, 0, 0 };
        prompt_text(&t, &t.task[i], &o, &prompt);
        int n = prompt_stops(&t.task[i], &o, stop);
        if (n < 0 || n > MAX_STOPS) fuzz_fail("%d stops", n);
        if (!tasks_find(&t, t.task[i].id)) fuzz_fail("task %zu is not found", i);
        buf_free(&prompt);
    }
    tasks_close(&t);
}
