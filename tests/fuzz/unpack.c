/* unpack.c: fuzzes eval/unpack.c. The first byte says what an input is: base64 as it stands; what
 * comes out of base64, with a right zlib header; or what comes out of zlib, the pickle. */

#include "../../eval/eval.h"
#include "fuzz.h"

void fuzz_begin(void) {}

static void add_base64(Buf *out, const uint8_t *p, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        size_t have = n - i < 3 ? n - i : 3;
        uint32_t three = (uint32_t)p[i] << 16;
        if (have > 1) three |= (uint32_t)p[i + 1] << 8;
        if (have > 2) three |= p[i + 2];
        for (size_t k = 0; k <= have; k++) buf_add(out, &digits[three >> (18 - 6 * k) & 63], 1);
    }
}

/* One stored block (RFC 1951, 3.2.4) and the checksum of what is in it. */
static void add_stored(Buf *out, const uint8_t *p, size_t n) {
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < n; i++) a = (a + p[i]) % 65521, b = (b + a) % 65521;
    uint8_t head[5] = { 1, (uint8_t)n, (uint8_t)(n >> 8), (uint8_t)~n, (uint8_t)(~n >> 8) };
    uint8_t sum[4] = { (uint8_t)(b >> 8), (uint8_t)b, (uint8_t)(a >> 8), (uint8_t)a };
    buf_add(out, head, 5);
    buf_add(out, p, n);
    buf_add(out, sum, 4);
}

void fuzz_one(const uint8_t *data, size_t size) {
    Buf bytes = { NULL, 0, 0 }, packed = { NULL, 0, 0 }, out = { NULL, 0, 0 };
    Error e = { "" };
    if (!size || size > 60000) return;
    buf_add(&bytes, "\x78\x9C", 2);
    if (*data % 3 == 0) {
        buf_add(&packed, data + 1, size - 1);
    } else {
        if (*data % 3 == 1)
            buf_add(&bytes, data + 1, size - 1);
        else
            add_stored(&bytes, data + 1, size - 1);
        add_base64(&packed, (uint8_t *)bytes.data, bytes.n);
    }
    if (!unpack_tests(&out, (Str){ packed.data, packed.n }, &e)) fuzz_refused(&e);
    buf_free(&bytes);
    buf_free(&packed);
    buf_free(&out);
}
