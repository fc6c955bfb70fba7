/* unpack.c: LiveCodeBench's private tests, which files have as base64 of zlib of a pickled text.
 *
 * What to know first: zlib (RFC 1950) is a header, DEFLATE and a checksum. DEFLATE (RFC 1951) is a
 * sequence of blocks; in a compressed one every symbol has a prefix code, shorter where it is more
 * frequent: 0 to 255 are bytes, 256 ends the block, the rest are lengths of what is to be copied
 * from `distance` bytes back. Codes are numbered by length, then by symbol, so their lengths say
 * all. Of pickle only the one opcode that is a text is understood: nothing is executed.
 * Test: tests/test_evaluate.py. */
#include "eval.h"

enum { MOST_UNPACKED = 1 << 28 }; /* bytes: a small text may stand for a huge one */

/* ------------------------------------------------------------------------------------------------
 * Base64 (RFC 4648) */

static bool from_base64(Buf *out, Str text, Error *e) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t hold = 0;
    int n_bits = 0;
    while (text.n && (text.s[text.n - 1] == '=' || text.s[text.n - 1] == '\n')) text.n--;
    for (size_t i = 0; i < text.n; i++) {
        const char *at = text.s[i] ? strchr(digits, text.s[i]) : NULL;
        if (!at) return fail(e, "byte %zu: no digit of base64", i);
        hold = hold << 6 | (uint32_t)(at - digits);
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        uint8_t byte = (uint8_t)(hold >> n_bits);
        buf_add(out, &byte, 1);
    }
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * DEFLATE */

typedef struct {
    Cursor in;
    uint32_t hold; /* the next n bits, the first one lowest */
    int n;
    bool ended; /* more was asked for than there is: zeros were given */
} Bits;

static uint32_t take_bits(Bits *b, int n) {
    for (uint8_t byte = 0; b->n < n; b->n += 8, byte = 0) {
        if (!take(&b->in, &byte, 1)) b->ended = true;
        b->hold |= (uint32_t)byte << b->n;
    }
    uint32_t bits = b->hold & ((1u << n) - 1);
    b->hold >>= n;
    b->n -= n;
    return bits;
}

/* A prefix code: how many symbols have codes of each length, and the symbols in order of codes. */
typedef struct {
    int count[16], symbol[288];
} Code;

/* From the lengths of n symbols, 0 for those that do not occur. False where they overlap. */
static bool make_code(Code *c, const uint8_t *length, int n) {
    int next[17] = { 0 }, left = 1;
    memset(c->count, 0, sizeof c->count);
    for (int i = 0; i < n; i++) c->count[length[i]]++;
    c->count[0] = 0;
    for (int l = 1; l < 16; l++) {
        left = 2 * left - c->count[l];
        if (left < 0) return false;
        next[l + 1] = next[l] + c->count[l];
    }
    for (int i = 0; i < n; i++)
        if (length[i]) c->symbol[next[length[i]]++] = i;
    return true;
}

/* The next symbol, -1 where no code begins like that. */
static int take_symbol(Bits *b, const Code *c) {
    int code = 0, first = 0, index = 0; /* first: of the codes of this length; index: its symbol */
    for (int l = 1; l < 16 && !b->ended; l++) {
        code |= (int)take_bits(b, 1);
        if (code - first < c->count[l]) return c->symbol[index + code - first];
        index += c->count[l];
        first = (first + c->count[l]) * 2;
        code *= 2;
    }
    return -1;
}

/* What follows the header of a compressed block, up to its end. */
static bool inflate_symbols(Bits *b, Buf *out, const Code *lengths, const Code *distances) {
    for (int s; (s = take_symbol(b, lengths)) != 256;) {
        if (s < 0 || s > 285 || out->n > MOST_UNPACKED) return false;
        if (s < 256) {
            uint8_t byte = (uint8_t)s;
            buf_add(out, &byte, 1);
            continue;
        }
        /* Lengths 3 to 10 have a symbol each; then four share 1 more bit, four share 2, ... */
        int k = s - 257, extra = k < 8 || k == 28 ? 0 : k / 4 - 1;
        size_t length = k < 8 ? (size_t)k + 3 : k == 28 ? 258 : ((size_t)(4 + k % 4) << extra) + 3;
        length += take_bits(b, extra);
        int d = take_symbol(b, distances);
        if (d < 0 || d > 29) return false;
        extra = d < 4 ? 0 : d / 2 - 1;
        size_t distance = (d < 4 ? (size_t)d : (size_t)(2 + d % 2) << extra) + 1;
        distance += take_bits(b, extra);
        if (distance > out->n) return false;
        while (length--) { /* a byte at a time: what is copied may be what was just written */
            char byte = out->data[out->n - distance];
            buf_add(out, &byte, 1);
        }
    }
    return !b->ended;
}

/* The codes of a block that brings its own: their lengths are themselves coded. */
static bool read_codes(Bits *b, Code *lengths, Code *distances) {
    static const uint8_t order[19] = { 16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                       11, 4,  12, 3, 13, 2, 14, 1, 15 };
    uint8_t length[320] = { 0 }, own[19] = { 0 };
    int n = (int)take_bits(b, 5) + 257, m = (int)take_bits(b, 5) + 1, k = (int)take_bits(b, 4) + 4;
    Code meta;
    for (int i = 0; i < k; i++) own[order[i]] = (uint8_t)take_bits(b, 3);
    if (n > 286 || m > 30 || !make_code(&meta, own, 19)) return false;
    for (int i = 0; i < n + m;) {
        int s = take_symbol(b, &meta), times = 1;
        uint8_t value = (uint8_t)(s < 16 ? s : 0);
        if (s < 0 || (s == 16 && !i)) return false;
        if (s == 16) value = length[i - 1], times = 3 + (int)take_bits(b, 2);
        if (s == 17) times = 3 + (int)take_bits(b, 3);
        if (s == 18) times = 11 + (int)take_bits(b, 7);
        if (i + times > n + m) return false;
        while (times--) length[i++] = value;
    }
    return length[256] && make_code(lengths, length, n) && make_code(distances, length + n, m);
}

static bool inflate_block(Bits *b, Buf *out, uint32_t type) {
    Code lengths, distances;
    uint8_t length[288];
    if (type == 0) { /* stored: begins at a whole byte with its size, twice */
        b->hold = 0, b->n = 0;
        uint32_t n = take_bits(b, 16), check = take_bits(b, 16);
        const uint8_t *p = b->ended ? NULL : take_bytes(&b->in, n);
        if ((n ^ 0xFFFF) != check || !p) return false;
        buf_add(out, p, n);
        return out->n <= MOST_UNPACKED;
    }
    if (type == 1) { /* the code that every reader knows */
        for (int i = 0; i < 288; i++)
            length[i] = (uint8_t)(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
        make_code(&lengths, length, 288);
        memset(length, 5, 30);
        make_code(&distances, length, 30);
    } else if (type != 2 || !read_codes(b, &lengths, &distances)) {
        return false;
    }
    return inflate_symbols(b, out, &lengths, &distances);
}

static uint32_t adler32(Str s) {
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < s.n; i++) a = (a + (uint8_t)s.s[i]) % 65521, b = (b + a) % 65521;
    return b << 16 | a;
}

static bool from_zlib(Buf *out, Str in, Error *e) {
    const uint8_t *p = (const uint8_t *)in.s;
    if (in.n < 6 || (p[0] & 15) != 8 || (p[0] << 8 | p[1]) % 31 || p[1] & 32)
        return fail(e, "not zlib");
    const uint8_t *sum = p + in.n - 4;
    Bits b = { { p + 2, sum }, 0, 0, false };
    buf_add(out, "", 0);
    for (bool last = false; !last;) {
        last = take_bits(&b, 1);
        if (!inflate_block(&b, out, take_bits(&b, 2)))
            return fail(e, "damaged zlib, or more than %d bytes", MOST_UNPACKED);
    }
    uint32_t want =
        (uint32_t)sum[0] << 24 | (uint32_t)sum[1] << 16 | (uint32_t)sum[2] << 8 | sum[3];
    return adler32((Str){ out->data, out->n }) == want || fail(e, "zlib: wrong checksum");
}

/* ------------------------------------------------------------------------------------------------
 * A pickle that is one text */

static bool from_pickle(Str *text, Str in, Error *e) {
    Cursor c = { (const uint8_t *)in.s, (const uint8_t *)in.s + in.n };
    uint8_t op = 0;
    uint64_t n = 0;
    while (take(&c, &op, 1) && (op == 0x80 || op == 0x95)) /* protocol; frame, of 8 bytes */
        if (!take_bytes(&c, op == 0x80 ? 1 : 8)) break;
    size_t width = op == 0x8C ? 1 : op == 'X' ? 4 : op == 0x8D ? 8 : 0;
    text->s = NULL;
    if (width && take(&c, &n, width)) text->s = (const char *)take_bytes(&c, n);
    text->n = (size_t)n;
    bool memo = take(&c, &op, 1) && (op == 0x94 || (op == 'q' && take_bytes(&c, 1)));
    if (memo && !take(&c, &op, 1)) op = 0;
    return (text->s && op == '.' && c.p == c.end) || fail(e, "a pickle that is no text");
}

bool unpack_tests(Buf *out, Str packed, Error *e) {
    Buf bytes = { 0 }, pickle = { 0 };
    Str text;
    bool ok = from_base64(&bytes, packed, e) &&
              from_zlib(&pickle, (Str){ bytes.data, bytes.n }, e) &&
              from_pickle(&text, (Str){ pickle.data, pickle.n }, e);
    if (ok) buf_add(out, text.s, text.n);
    buf_free(&bytes);
    buf_free(&pickle);
    return ok;
}
