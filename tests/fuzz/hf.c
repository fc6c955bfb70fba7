/* hf.c: fuzzes a whole Hugging Face directory: config.json, the index of the weights, the JSON
 * files of the tokenizer and how they fit together (export/hf.c, export/hfvocab.c).
 *
 * An input is several files in a row: FF, 'F', a letter for the name (names[]), then its bytes.
 * What stands before the first is config.json. Files that are not in it are missing. */

#include "../../export/export.h"
#include "fuzz.h"

static const char *const names[] = { "config.json",
                                     "generation_config.json",
                                     "tokenizer_config.json",
                                     "special_tokens_map.json",
                                     "added_tokens.json",
                                     "tokenizer.model",
                                     "model.safetensors.index.json",
                                     "a.safetensors",
                                     "model.safetensors",
                                     "chat_template.jinja",
                                     "pytorch_model.bin" };
enum { N_NAMES = sizeof names / sizeof *names };

void fuzz_begin(void) { fuzz_directory(); }

static void put_file(int which, const uint8_t *data, size_t size) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", fuzz_directory(), names[which]);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) fuzz_fail("%s: cannot write", path);
    close(fd);
}

/* Removes what the input before this one had, and this one has not. */
static void remove_others(uint32_t there) {
    static uint32_t before;
    char path[128];
    for (int i = 0; i < N_NAMES; i++) {
        snprintf(path, sizeof path, "%s/%s", fuzz_directory(), names[i]);
        if (before & ~there & 1u << i) unlink(path);
    }
    before = there;
}

/* Where the next file begins: at its mark, or at the end. */
static size_t mark_at(const uint8_t *data, size_t size, size_t i) {
    while (i < size && !(size - i >= 3 && data[i] == 0xFF && data[i + 1] == 'F' &&
                         data[i + 2] >= 'a' && data[i + 2] < 'a' + N_NAMES))
        i++;
    return i;
}

void fuzz_one(const uint8_t *data, size_t size) {
    static Source s;
    Error e = { "" };
    uint32_t there = 0;
    int which = 0;
    for (size_t from = 0, to;; from = to + 3) {
        to = mark_at(data, size, from);
        if (to > from) put_file(which, data + from, to - from), there |= 1u << which;
        if (to == size) break;
        which = data[to + 2] - 'a';
    }
    remove_others(there);
    memset(&s, 0, sizeof s);
    if (!source_open(&s, fuzz_directory(), NULL, &e))
        fuzz_refused(&e);
    else if (!vocab_check(&s.vocab, &e) || !config_check(&s.config, &e))
        fuzz_fail("accepted: %s", e.text);
    source_close(&s);
}
