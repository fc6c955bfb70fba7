/* filter.c: `./refine filter`, the heuristic rules of RefineCode on each document.
 *
 *     ./refine filter files.jsonl > clean.jsonl
 *     ./refine filter --all --signals files.jsonl | less      every figure of every file
 *
 * What to know first: rules.h has the signals, thresholds.c the thresholds, parsers.h what "must
 * parse" means. This file only joins them: first all rules that need no parser, then, for what is
 * left, the parser, then all rules again. Statistics count each rule that hits; a document's reason
 * is the first of them. Test: tests/test_filter.py. */

#include "parsers.h"
#include "refine.h"

static bool all, fix, no_parse, signals;
static int64_t seed = 42;
static const char *speech = "auto";

static const Option options[] = {
    { 0, "signals", NULL, NULL, OPT_FLAG, &signals, 0, 0,
      "add \"quality_signal\": every figure by its name; all files are parsed" },
    { 0, "all", NULL, NULL, OPT_FLAG, &all, 0, 0,
      "keep all; add \"effective\" and, where it is false, \"hits\": the rules" },
    { 0, "fix", NULL, NULL, OPT_FLAG, &fix, 0, 0,
      "correct the mistakes of the released filter, listed above" },
    { 0, "no-parse", NULL, NULL, OPT_FLAG, &no_parse, 0, 0, "start no parsers" },
    { 0, "lang", NULL, "LANG", OPT_TEXT, &speech, 0, 0,
      "what texts are written in: en, zh, other, or auto, by their characters" },
    { 's', "seed", NULL, "N", OPT_INT, &seed, 0, 9e15, "of the rules that drop 8 files of 10" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

typedef struct {
    Rules *rules;
    Parsers *parsers;
} FilterThread;

static int n_filter_threads;

static void *filter_open(int n_threads) {
    if (strcmp(speech, "auto") && strcmp(speech, "en") && strcmp(speech, "zh") &&
        strcmp(speech, "other"))
        die_usage("--lang: '%s', expected auto, en, zh or other", speech);
    FilterThread *t = (FilterThread *)xcalloc((size_t)n_threads, sizeof *t, "filter");
    for (int i = 0; i < n_threads; i++) {
        t[i].rules = rules_open(fix);
        t[i].parsers = parsers_open(fix);
    }
    n_filter_threads = n_threads;
    return t;
}

static void describe(RuleFile *f, const Document *d) {
    const char *slash = d->path.n ? (const char *)memrchr(d->path.s, '/', d->path.n) : NULL;
    size_t from = slash ? (size_t)(slash + 1 - d->path.s) : 0;
    memset(f, 0, sizeof *f);
    f->text = d->content;
    f->name = (Str){ d->path.n ? d->path.s + from : "", d->path.n - from };
    f->ext = d->ext.n ? d->ext : str_of("");
    f->size = d->size ? (size_t)d->size : d->content.n;
    rule_file_kind(f, d->language, d->type);
    if (f->type != FILE_TEXT) return;
    if (!strcmp(speech, "auto")) {
        rule_file_speech(f);
    } else {
        f->chinese = !strcmp(speech, "zh");
        f->english = !strcmp(speech, "en");
    }
}

static void put_signals(Document *d, const Signals *s) {
    Buf *b = document_member(d, "quality_signal");
    json_open(b, '{');
    for (int i = 0; i < N_SIGNALS; i++) {
        if (s->state[i] == SIGNAL_MISSING) continue;
        json_put_key(b, signal_name[i]);
        if (s->state[i] == SIGNAL_NONE)
            buf_printf(b, "null");
        else
            json_put_num(b, s->value[i], false);
    }
    json_close(b, '}');
}

static bool judge(Document *d, const uint8_t *hit, int hits) {
    const char *first = NULL;
    for (int i = 0; i < N_SIGNALS; i++) {
        if (!hit[i]) continue;
        document_count(d, signal_name[i]);
        if (!first) first = signal_name[i];
    }
    if (!all) return !hits || document_drop(d, first);
    json_put_bool(document_member(d, "effective"), !hits);
    if (!hits) return true;
    Buf *b = document_member(d, "hits");
    json_open(b, '[');
    for (int i = 0; i < N_SIGNALS; i++)
        if (hit[i]) json_put_str(b, str_of(signal_name[i]));
    json_close(b, ']');
    return true;
}

static bool filter_process(void *state, int thread, Document *d) {
    FilterThread *t = (FilterThread *)state + thread;
    RuleFile f;
    Signals s;
    uint8_t hit[N_SIGNALS];
    describe(&f, d);
    if (f.type == FILE_OTHER) {
        if (!all) return document_drop(d, "excluded or unknown language");
        json_put_bool(document_member(d, "effective"), false);
        return true;
    }
    rules_signals(t->rules, &f, &s);
    int hits = rules_hits(&f, &s, (uint64_t)seed, hit);
    if (!no_parse && parsers_want(&f) && (!hits || signals)) {
        parser_signals(t->parsers, t->rules, &s);
        hits = rules_hits(&f, &s, (uint64_t)seed, hit);
    }
    if (signals) put_signals(d, &s);
    return judge(d, hit, hits);
}

static void filter_close(void *state, Buf *stats) {
    FilterThread *t = (FilterThread *)state;
    uint64_t failed = 0;
    for (int i = 0; i < n_filter_threads; i++) {
        failed += parsers_failed(t[i].parsers);
        rules_close(t[i].rules);
        parsers_close(t[i].parsers);
    }
    json_put_key(stats, "parser_gave_up");
    json_put_int(stats, (int64_t)failed);
    free(t);
}

const Stage filter_stage = {
    "filter",    "drop files by the heuristic rules of the paper",
    rules_fixed, options,
    filter_open, filter_process,
    NULL,        filter_close,
};
