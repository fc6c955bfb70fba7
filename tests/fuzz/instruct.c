/* instruct.c: fuzzes the conversations that ./refine instruct --from reads (data/chats.c). What is
 * kept is a line of JSON with a question and an answer. */

#include "../../data/instruct.h"
#include "fuzz.h"

Common common; /* the options of all commands: refine.c has them, and the program */
static void *state;

void fuzz_begin(void) { state = chats_stage.open(1); }

void fuzz_one(const uint8_t *data, size_t size) {
    Document d = { 0 };
    Error e = { "" };
    JsonDoc kept = { 0 };
    document_reset(&d);
    buf_add(&d.raw, data, size);
    if (!load_chat(NULL, &d, &e)) {
        fuzz_refused(&e);
    } else if (!chats_stage.process(state, 0, &d)) {
        if (!d.reason) fuzz_fail("dropped without a reason");
    } else {
        if (!json_parse(&kept, d.keys.data, d.keys.n, &e)) fuzz_fail("kept: %s", e.text);
        json_free(&kept);
    }
    document_free(&d);
}
