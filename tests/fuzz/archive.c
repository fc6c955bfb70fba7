/* archive.c: fuzzes data/archive.c, tar and zip through libarchive. No file of an archive takes
 * more memory than read allows, whatever it unpacks to. */

#include "../../data/inputs.h"
#include "fuzz.h"

void fuzz_begin(void) {}

void fuzz_one(const uint8_t *data, size_t size) {
    Archive *a = archive_open(fuzz_file(data, size));
    Document d = { 0 };
    Str path;
    int64_t time;
    document_reset(&d);
    for (; archive_next(a, &d, &path, &time); document_reset(&d)) {
        if (d.text.n > MOST_FILE + (1 << 17)) fuzz_fail("a file of %zu bytes", d.text.n);
        if (!d.broken && memchr(path.s, 0, path.n)) fuzz_fail("a NUL in a name");
    }
    archive_close(a);
    document_free(&d);
}
