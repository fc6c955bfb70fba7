/* synth.c: `./refine synth`, training data that a model writes and that proves itself.
 *
 *     ./refine synth algorithms.jsonl -k snippet -m chat.bin --completions a.jsonl > code.jsonl
 *     ./refine synth seeds.jsonl -k educational -m chat.bin > pairs.jsonl
 *     ./refine synth math.jsonl -k package --show-prompts | ./runcuda big.bin --prompts - > a.jsonl
 *     ./refine synth math.jsonl -k package --completions a.jsonl > pairs.jsonl
 *
 * What to know first: OpenCoder (arXiv 2411.04905, sections 2.2.2 and 4.1) lets a large model write
 * from seeds and keeps what runs:
 *
 *     snippet      from code: a function of its own, and tests         annealing    a text
 *     textbook     from code: a chapter that teaches what it does      annealing    a text
 *     educational  from code: an exercise, its solution, tests         SFT          a pair
 *     package      from a library's documentation: the same, about     SFT          a pair
 *                  one of its functions
 *
 * The paper's prompts are not public; these are ours. A seed is a line with "content" or "text";
 * for package {"package": "math", "name": "comb", "signature": "comb(n, k, /)", "doc": "..."}. The
 * answers go through three sieves: the form (answers.py), the tests in the sandbox, which a stub
 * that does nothing must not pass, and duplicates, of the seeds too (judge.c). Answers may come
 * from elsewhere. Test: tests/test_synth.py. */

#include "synth.h"

#include "parsers.h"

static const char *kind_name = "", *completions, *form;
static int kind; /* SNIPPET, ... */
static bool show_prompts;
static int64_t samples = 1, seed_bytes = 3000;
static WriteOptions writing = { NULL, NULL, 1024, 0, 8, 1, 0, 0.8, 0.95, false };

static const Option own[] = {
    { 'k', "kind", NULL, "NAME", OPT_TEXT, &kind_name, 0, 0,
      "snippet, textbook, educational or package" },
    { 'm', "model", NULL, "FILE", OPT_TEXT, &writing.model, 0, 0, "the GGUF file that writes" },
    { 0, "completions", NULL, "FILE", OPT_TEXT, &completions, 0, 0,
      "answers that are there; with --model, the file that new ones are added to" },
    { 0, "show-prompts", NULL, NULL, OPT_FLAG, &show_prompts, 0, 0,
      "print the prompts for run --prompts, and end" },
    { 0, "as", NULL, "FORM", OPT_TEXT, &form, 0, 0,
      "text or chat; by default as the paper uses the kind" },
    { 0, "samples", NULL, "N", OPT_INT, &samples, 1, 1 << 20, "answers to a seed" },
    { 0, "seed-bytes", NULL, "N", OPT_INT, &seed_bytes, 100, 1 << 20, "of a seed in a prompt" },
    { 'n', "n-predict", "max-tokens", "N", OPT_INT, &writing.n_new, 1, 1 << 20,
      "tokens of an answer" },
    { 't', "temp", "temperature", "T", OPT_FLOAT, &writing.temperature, 0, 100,
      "0: always the likeliest token" },
    { 'p', "top-p", NULL, "P", OPT_FLOAT, &writing.top_p, 0, 1,
      "sample from the likeliest that reach P" },
    { 0, "top-k", NULL, "K", OPT_INT, &writing.top_k, 0, 1 << 20,
      "sample from the K likeliest; 0: all" },
    { 's', "seed", NULL, "N", OPT_INT, &writing.seed, 0, 9e15, "of the sampling" },
    { 'c', "ctx-size", "ctx", "N", OPT_INT, &writing.ctx, 0, 1 << 24,
      "context in tokens; 0: what is needed" },
    { 0, "batch", "parallel", "N", OPT_INT, &writing.n_seq, 1, 256, "answers at a time" },
    { 0, "lora", NULL, "FILE", OPT_TEXT, &writing.lora, 0, 0, "apply an adapter to the model" },
    { 0, "plain", NULL, NULL, OPT_FLAG, &writing.plain, 0, 0,
      "a base model: the prompt without the markers of a chat" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

static const char usage[] =
    "usage: refine synth SEEDS.jsonl... --kind KIND --model MODEL [options]   a model writes data\n"
    "       refine synth SEEDS.jsonl... --kind KIND --completions FILE [options]\n"
    "What is written is tried out; what passes its own tests stays. Examples:\n"
    "  ./refine synth algorithms.jsonl -k snippet -m chat.bin --completions a.jsonl > code.jsonl\n"
    "  ./refine synth seeds.jsonl -k educational -m chat.bin --samples 4 -o pairs.jsonl\n"
    "  ./refine synth api.jsonl -k package --show-prompts > prompts.jsonl\n"
    "  ./run chat.bin --prompts prompts.jsonl > a.jsonl\n"
    "  ./refine synth api.jsonl -k package --completions a.jsonl -o pairs.jsonl\n"
    "The same command goes on where it was stopped, if --completions names a file.\n";

/* ------------------------------------------------------------------------------------------------
 * 1. Seeds and prompts */

static struct {
    Seed *seed;
    Question *question;
    size_t n, cap, n_questions, broken, twice;
    Parsers **parsers; /* a thread's */
    JsonDoc *answer;
    int n_threads;
    Output *spool;
} run;

static const struct {
    const char *name, *form, *source;
    char letter; /* of answers.py */
} kinds[N_KINDS] = {
    [SNIPPET] = { "snippet", "text", "synthetic code snippet", 's' },
    [TEXTBOOK] = { "textbook", "text", "synthetic textbook", 'x' },
    [EDUCATIONAL] = { "educational", "chat", "synthetic exercise", 'q' },
    [PACKAGE] = { "package", "chat", "synthetic library exercise", 'p' },
};

static void add_text(Buf *b, Str s) {
    for (size_t i = 0; i < s.n; i++) /* a NUL would end it */
        buf_add(b, s.s[i] ? s.s + i : " ", 1);
    buf_add(b, "", 0);
}

/* At most seed_bytes of it: whole lines, unless that would lose half of them. */
static Str cut_seed(Str s) {
    if (s.n <= (size_t)seed_bytes) return s;
    s.n = (size_t)seed_bytes;
    const char *line = memrchr(s.s, '\n', s.n);
    size_t whole = line ? (size_t)(line - s.s) : 0;
    s.n = whole >= s.n / 2 ? whole : utf8_complete(s.s, s.n);
    return s;
}

static bool read_seed(const Document *d, Seed *s, Error *e) {
    const Json *j = d->json.node;
    Str text = { "", 0 }, name = d->path, library = { "", 0 }, title = { "", 0 }, about = { "", 0 };
    const char *key = kind == PACKAGE ? "doc" : json_get(j, "content") ? "content" : "text";
    if (!json_str(j, key, true, &text, e) || !json_str(j, "path", false, &name, e)) return false;
    if (kind == PACKAGE &&
        (!json_str(j, "package", true, &library, e) || !json_str(j, "name", true, &title, e) ||
         !json_str(j, "signature", false, &about, e)))
        return false;
    if (!text.n || (kind == PACKAGE && (!library.n || !title.n)))
        return fail(e, "key %s: empty, expected a text", key);
    const Str shown[] = { text, library, title, about };
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        if (memmem(shown[i].s, shown[i].n, "<|im_", 5))
            return fail(e, "has <|im_, a chat's marker");
    *s = (Seed){ 0 };
    add_text(&s->text, cut_seed(text));
    add_text(&s->name, title.n ? title : name);
    add_text(&s->library, library);
    add_text(&s->title, title);
    add_text(&s->about, cut_seed(about));
    return true;
}

static void seed_free(Seed *s) {
    buf_free(&s->text), buf_free(&s->name), buf_free(&s->library);
    buf_free(&s->title), buf_free(&s->about);
}

/* Is it the first with this text, and of a package about this function? */
static bool is_new(Words *seen, const Seed *s) {
    const Buf *part[] = { &s->library, &s->title, &s->text };
    Buf key = { NULL, 0, 0 };
    for (int i = 0; i < 3; i++) buf_add(&key, part[i]->data, part[i]->n + 1); /* and its NUL */
    bool fresh = !words_get(seen, key.data, key.n)->value++;
    buf_free(&key);
    return fresh;
}

/* Every seed once; what is none is counted. */
static void read_seeds(const char **path, int n) {
    Source *in = source_lines(path, n);
    Document d = { 0 };
    Words seen = { 0 };
    Seed s;
    Error e;
    document_reset(&d);
    for (; in->next(in, &d); document_reset(&d)) {
        bool ok = load_object(&d, &e) && read_seed(&d, &s, &e);
        run.broken += !ok;
        if (!ok && common.verbose)
            fprintf(stderr, "%s:%lld: %s\n", d.from, (long long)d.line, e.text);
        if (!ok) continue;
        if (!is_new(&seen, &s)) {
            run.twice++;
            seed_free(&s);
            continue;
        }
        if (run.n == run.cap) {
            run.cap = run.cap * 2 + 64;
            run.seed = xrealloc(run.seed, run.cap, sizeof *run.seed, "seeds");
        }
        run.seed[run.n++] = s;
    }
    words_free(&seen);
    source_close(in);
    document_free(&d);
    if (!run.n)
        die("%s: no seeds in it, expected JSON Lines with %s", n ? path[0] : "stdin",
            kind == PACKAGE ? "package, name and doc" : "content");
}

static void make_questions(void) {
    run.n_questions = run.n * (size_t)samples;
    run.question = xcalloc(run.n_questions, sizeof *run.question, "questions");
    for (size_t i = 0; i < run.n_questions; i++) {
        Question *q = &run.question[i];
        q->seed = i / (size_t)samples;
        q->sample = (int64_t)(i % (size_t)samples);
        write_prompt(kind, q, &run.seed[q->seed]);
    }
}

static void print_prompts(void) {
    Output *out = output_open(common.out, common.zstd);
    for (size_t i = 0; i < run.n_questions; i++) {
        const Question *q = &run.question[i];
        Buf line = { NULL, 0, 0 }, text = { NULL, 0, 0 };
        if (!writing.plain) buf_printf(&text, "%s%s", CHAT_HEAD, CHAT_USER);
        buf_add(&text, q->prompt.data, q->prompt.n);
        if (!writing.plain) buf_printf(&text, "%s", CHAT_TAIL);
        put_question(&line, q);
        json_put_key(&line, "prompt");
        json_put_str(&line, (Str){ text.data, text.n });
        buf_add(&line, "}\n", 2);
        output_write(out, line.data, line.n);
        buf_free(&line), buf_free(&text);
    }
    output_commit(out);
}

/* ------------------------------------------------------------------------------------------------
 * 2. Answers as documents: form */

typedef struct {
    Source source;
    size_t at;
} Answers;

static bool next_answer(Source *s, Document *d) {
    Answers *a = (Answers *)s;
    while (a->at < run.n_questions && !run.question[a->at].finish) a->at++;
    if (a->at == run.n_questions) return false;
    d->line = (int64_t)++a->at; /* the question is the one before */
    d->from = "answer";
    s->done = a->at;
    return true;
}

static bool load_answer(const Source *s, Document *d, Error *e) {
    const Question *q = &run.question[d->line - 1];
    const Seed *seed = &run.seed[q->seed];
    (void)s, (void)e;
    d->content = (Str){ q->answer.data ? q->answer.data : "", q->answer.n };
    d->path = (Str){ seed->name.data, seed->name.n };
    d->size = (int64_t)q->answer.n;
    return true;
}

static void *form_open(int n_threads) {
    run.n_threads = n_threads;
    run.parsers = xcalloc((size_t)n_threads, sizeof *run.parsers, "the parsers");
    run.answer = xcalloc((size_t)n_threads, sizeof *run.answer, "the parsers");
    for (int i = 0; i < n_threads; i++) run.parsers[i] = parsers_open(false);
    return NULL;
}

static void form_close(void *state, Buf *stats) {
    (void)state, (void)stats;
    for (int i = 0; i < run.n_threads; i++) {
        parsers_close(run.parsers[i]);
        json_free(&run.answer[i]);
    }
    free(run.parsers);
    free(run.answer);
}

/* The reasons of answers.py. */
static const char *known_reason(Str why) {
    static const char *const known[] = {
        "cut off in a fenced block",
        "does not parse",
        "two statements in a line",
        "tests do more than call and compare",
        "fewer than three asserts about it",
        "no function or class",
        "empty body",
        "no fenced block of Python",
        "not in the form that was asked for",
        "question is short or long",
        "question does not name the function",
        "does not use the function that was asked for",
        "no headings",
        "fewer than two headings",
        "no example",
        "little prose",
        "long",
        "repeats itself",
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (str_is(why, known[i])) return known[i];
    return "other";
}

typedef struct {
    Str why, text, question, output, program, tests, stub;
} Parts;

static void put_answer(Document *d, const Parts *a) {
    const Question *q = &run.question[d->line - 1];
    const Seed *seed = &run.seed[q->seed];
    Buf line = { NULL, 0, 0 }, text = { NULL, 0, 0 };
    if (a->question.n) buf_add(&text, a->question.s, a->question.n), buf_add(&text, "\n\n", 2);
    Str body = a->question.n ? a->output : a->text;
    buf_add(&text, body.s, body.n);
    json_open(&line, '{');
    put_member(&line, "language", str_of(kind == TEXTBOOK ? "Markdown" : "Python"));
    if (!strcmp(form, "text")) put_member(&line, "type", str_of(kind == SNIPPET ? "code" : "text"));
    put_member(&line, "source", str_of(kinds[kind].source));
    put_member(&line, "seed", (Str){ seed->name.data, seed->name.n });
    json_put_key(&line, "sample");
    json_put_int(&line, q->sample);
    if (!strcmp(form, "text")) {
        put_member(&line, "content", (Str){ text.data, text.n });
    } else {
        put_member(&line, "instruction", a->question);
        put_member(&line, "output", a->output);
    }
    json_close(&line, '}');
    candidate_put(&d->keys, &(Candidate){ .text = a->text,
                                          .more = { text.data, text.n },
                                          .name = d->path,
                                          .program = a->program,
                                          .tests = a->tests,
                                          .stub = a->stub,
                                          .line = { line.data, line.n } });
    buf_free(&line), buf_free(&text);
}

static bool form_process(void *state, int thread, Document *d) {
    const Question *q = &run.question[d->line - 1];
    const Seed *seed = &run.seed[q->seed];
    const Str none = { "", 0 };
    JsonDoc *answer = &run.answer[thread];
    Parts a = { none, none, none, none, none, none, none };
    Buf text = { NULL, 0, 0 };
    Error e;
    (void)state;
    if (strcmp(q->finish, "stop")) return document_drop(d, "cut off: no room for the answer");
    if (kind == PACKAGE) buf_printf(&text, "%.200s %.200s\n", seed->library.data, seed->title.data);
    buf_add(&text, d->content.s, d->content.n);
    bool ok =
        parsers_python(run.parsers[thread], kinds[kind].letter, (Str){ text.data, text.n }, answer);
    buf_free(&text);
    if (!ok) return document_drop(d, "the parser gave no answer");
    const Json *j = answer->node;
    ok = json_str(j, "why", false, &a.why, &e) && json_str(j, "text", false, &a.text, &e) &&
         json_str(j, "question", false, &a.question, &e) &&
         json_str(j, "output", false, &a.output, &e) &&
         json_str(j, "program", false, &a.program, &e) &&
         json_str(j, "tests", false, &a.tests, &e) && json_str(j, "stub", false, &a.stub, &e);
    if (!ok || !a.text.n) return document_drop(d, known_reason(a.why));
    put_answer(d, &a);
    return true;
}

static bool form_in_order(void *state, Document *d) {
    (void)state;
    output_write(run.spool, d->keys.data, d->keys.n);
    return true;
}

static const Stage form_stage = { "form",        "",        "", NULL, form_open, form_process,
                                  form_in_order, form_close };

/* ------------------------------------------------------------------------------------------------
 * 3. The command */

static void check_options(void) {
    for (kind = 0; kind < N_KINDS && strcmp(kind_name, kinds[kind].name); kind++) {}
    if (kind == N_KINDS)
        die_usage("--kind: '%s', expected snippet, textbook, educational or package", kind_name);
    if (!form) form = kinds[kind].form;
    if (strcmp(form, "text") && strcmp(form, "chat"))
        die_usage("--as: '%s', expected text or chat", form);
    if (!strcmp(form, "chat") && (kind == SNIPPET || kind == TEXTBOOK))
        die_usage("--as chat: given with %s, which has no question; expected text", kind_name);
    if (common.resume) die_usage("--resume: expected --completions FILE, which a run goes on from");
    if (!writing.model && !completions && !show_prompts)
        die_usage("--model: not given, expected a model, or answers by --completions");
}

static void protect(const char **path, int n) {
    const char *out[] = { common.out, completions };
    for (int k = 0; k < 2; k++)
        for (int i = 0; out[k] && i < n; i++)
            if (same_file(path[i], out[k]))
                die_usage("%s: is read and to be written, expected another name", out[k]);
    if (common.out && completions && same_file(common.out, completions))
        die_usage("%s: is to be written twice, expected another name", common.out);
}

static void get_answers(void) {
    size_t found = 0;
    if (completions && (!writing.model || !access(completions, F_OK)))
        found = answers_read(run.question, run.n_questions, completions);
    if (!common.quiet)
        fprintf(stderr,
                "%zu seeds (%zu more are no seeds, %zu are copies), %zu questions, %zu of "
                "them answered\n",
                run.n, run.broken, run.twice, run.n_questions, found);
    if (!writing.model) return;
    if (completions) answers_open(completions);
    write_answers(run.question, run.n_questions, &writing, answers_add);
    answers_close();
}

static void free_all(void) {
    for (size_t i = 0; i < run.n; i++) seed_free(&run.seed[i]);
    for (size_t i = 0; i < run.n_questions; i++)
        buf_free(&run.question[i].prompt), buf_free(&run.question[i].answer);
    free(run.seed);
    free(run.question);
}

int run_synth(int argc, char **argv) {
    Option table[80];
    const char *path[1024];
    judge_gather(table, 80, own, NULL);
    int n = refine_options(argc, argv, table, usage, path, 1024);
    check_options();
    protect(path, n);
    read_seeds(path, n);
    make_questions();
    if (show_prompts) {
        print_prompts();
        free_all();
        return 0;
    }
    judge_open(kind != TEXTBOOK);
    for (size_t i = 0; i < run.n; i++)
        judge_known((Str){ run.seed[i].text.data, run.seed[i].text.n });
    get_answers();
    Answers answers = { .source = { .next = next_answer, .load = load_answer } };
    Pipeline first = { .stage = { &form_stage }, .n_stages = 1, .what = "form" };
    first.verbose = common.verbose;
    first.in = &answers.source;
    run.spool = output_spool();
    pipeline_run(&first);
    first.broken.files += run.broken;
    judge_candidates(&first, run.spool, kind != TEXTBOOK);
    pipeline_free(&first);
    free_all();
    return 0;
}
