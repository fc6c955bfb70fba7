/* collect.c: fuzzes the outside end of eval/collect.c: the stream of files that comes out of a box
 * in which a model's program has run. */

#include "../../eval/box.h"
#include "fuzz.h"

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) {
    static const SandboxFile placed = { "main.c", "x", 1, false };
    SandboxJob job = { .files = &placed, .n_files = 1 };
    SandboxResult r = { 0 };
    size_t total = 0;
    int fd = open(fuzz_file(data, size), O_RDONLY | O_CLOEXEC);
    if (fd < 0) fuzz_fail("cannot open: %s", strerror(errno));
    (void)collect_read(&job, fd, 1 << 16, now_seconds() + 5, &r);
    for (int i = 0; i < r.n_files; i++) {
        total += strlen(r.files[i].name) + r.files[i].n;
        if (!strcmp(r.files[i].name, "main.c")) fuzz_fail("a file that was placed came back");
    }
    if (total > size) fuzz_fail("%zu bytes out of %zu", total, size);
    sandbox_free(&r);
    close(fd);
}
