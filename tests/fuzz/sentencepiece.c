/* sentencepiece.c: fuzzes export/sentencepiece.c. What is accepted is written and read again, and
 * must be the same vocabulary. */

#include "../../export/export.h"
#include "../../shards.h" /* vocab_crc */
#include "fuzz.h"

void fuzz_begin(void) {}

static void write_and_read(const Vocab *v) {
    Buf out = { NULL, 0, 0 };
    Arena a = { NULL, 0 };
    Vocab again;
    Error e = { "" };
    spm_write(&out, v);
    if (!spm_parse(&again, &a, (const uint8_t *)out.data, out.n, &e))
        fuzz_fail("what was written is refused: %s", e.text);
    if (again.n != v->n || vocab_crc(&again) != vocab_crc(v) || again.unk != v->unk ||
        again.unigram != v->unigram || again.add_space_prefix != v->add_space_prefix ||
        again.remove_extra_whitespaces != v->remove_extra_whitespaces ||
        again.whitespace_suffix != v->whitespace_suffix || again.charsmap.n != v->charsmap.n)
        fuzz_fail("%d tokens are %d others after writing", v->n, again.n);
    vocab_free(&again);
    arena_free(&a);
    buf_free(&out);
}

void fuzz_one(const uint8_t *data, size_t size) {
    Vocab v;
    Arena a = { NULL, 0 };
    Error e = { "" };
    if (spm_parse(&v, &a, data, size, &e)) {
        write_and_read(&v);
        vocab_free(&v);
    } else {
        fuzz_refused(&e);
    }
    arena_free(&a);
}
