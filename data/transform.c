/* transform.c: `./refine transform`, leading copyright notices out, personal data replaced.
 *
 *     ./refine transform files.jsonl > clean.jsonl
 *
 * What to know first: this comes before the filter, so that a file that was nothing but a license
 * is dropped there (arXiv 2411.04905, section 2.1.1). notice.h and pii.h do the work. Statistics
 * count the files that held some of it. Test: tests/test_transform.py. */

#include "notice.h"
#include "pii.h"
#include "refine.h"
#include "rules.h"

static bool keep_notice, keep_pii;

static const Option options[] = {
    { 0, "keep-notices", NULL, NULL, OPT_FLAG, &keep_notice, 0, 0, "leave copyright notices" },
    { 0, "keep-pii", NULL, NULL, OPT_FLAG, &keep_pii, 0, 0, "leave personal data" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

typedef struct {
    Buf without_notice, replaced;
} TransformThread;

static int n_transform_threads;

static void *transform_open(int n_threads) {
    n_transform_threads = n_threads;
    return xcalloc((size_t)n_threads, sizeof(TransformThread), "transform");
}

static bool transform_process(void *state, int thread, Document *d) {
    TransformThread *t = (TransformThread *)state + thread;
    size_t count[N_PII] = { 0 };
    RuleFile f = { 0 };
    rule_file_kind(&f, d->language, d->type);
    t->without_notice.n = t->replaced.n = 0;
    if (!keep_notice && notice_remove(f.lang, d->content, &t->without_notice)) {
        document_content(d, &t->without_notice);
        document_count(d, "copyright notice");
    }
    if (!keep_pii && pii_replace(d->content, &t->replaced, count)) {
        document_content(d, &t->replaced);
        for (int i = 0; i < N_PII; i++)
            if (count[i]) document_count(d, pii_what[i]);
    }
    return true;
}

static void transform_close(void *state, Buf *stats) {
    TransformThread *t = (TransformThread *)state;
    (void)stats;
    for (int i = 0; i < n_transform_threads; i++) {
        buf_free(&t[i].without_notice);
        buf_free(&t[i].replaced);
    }
    free(t);
}

const Stage transform_stage = {
    "transform",
    "remove copyright notices, replace personal data and secrets",
    "placeholders: <email> <ip_address> <key> <password> <name>\n",
    options,
    transform_open,
    transform_process,
    NULL,
    transform_close,
};
