/* replay.c: a fuzz target without a fuzzer, for any compiler: each file that is named, all files of
 * each directory, or stdin. Prints how many inputs it gave; one that breaks a promise ends it. */

#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t n_inputs;

static void give(const Buf *text) {
    LLVMFuzzerTestOneInput((const uint8_t *)text->data, text->n);
    n_inputs++;
}

static void give_file(const char *path) {
    Buf text = { NULL, 0, 0 };
    struct dirent **entry;
    int n = scandir(path, &entry, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char inner[4096];
        snprintf(inner, sizeof inner, "%s/%s", path, entry[i]->d_name);
        if (entry[i]->d_name[0] != '.') give_file(inner);
        free(entry[i]);
    }
    if (n >= 0) {
        free(entry);
        return;
    }
    dprintf(2, "%s\n", path); /* the last one that is named is the one that failed */
    read_file(path, &text);
    give(&text);
    buf_free(&text);
}

int main(int argc, char **argv) {
    Buf text = { NULL, 0, 0 };
    Error e;
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) give_file(argv[i]);
    if (argc == 1) {
        if (!read_all(0, &text, &e)) fuzz_fail("stdin: %s", e.text);
        give(&text);
        buf_free(&text);
    }
    dprintf(1, "%zu inputs\n", n_inputs);
    return 0;
}
