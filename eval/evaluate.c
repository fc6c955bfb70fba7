/* evaluate.c: `./evaluate`, how many programming problems a model solves.
 *
 *     ./evaluate model.bin HumanEval.jsonl -o out            see ./evaluate -h
 *     ./evaluate HumanEval.jsonl --completions answers.jsonl
 *
 * What to know first: the model answers every task of the file (generate.c), each answer becomes a
 * program (postprocess.c), each program is run with the task's tests in a sandbox (grade.c), and
 * the share of those that pass is the score: `passed/total` and per cent on stdout. The tests of
 * Python tasks are out of the program's reach; see sandbox.h. With -o, answers and results are kept
 * in a directory, and a run that was stopped goes on from there (store.c).
 *
 * eval.h says which file does what. Test: tests/test_evaluate.py. */
#include "eval.h"
#ifdef _OPENMP
#include <omp.h> /* omp_set_num_threads */
#endif

static struct {
    const char *path[2], *completions, *out, *tasks, *language, *postprocess, *k, *cpu;
    bool canonical, generate_only, show_prompts, restart, base_tests, languages, quiet;
    int64_t threads, failures;
    GenerateOptions generate;
    PromptOptions prompt;
    GradeOptions grade;
} opt = { .k = "1,10,100",
          .failures = 20,
          .generate = { .n_samples = 1, .n_new = 2048, .n_seq = 8, .seed = 1, .top_p = 1 },
          .grade = { .memory = 1024 } };

static Tasks tasks;
static Completions all; /* in the order of tasks and samples */
static int how;         /* POST_*: how an answer becomes a program */
static Journal answers = { NULL, -1 }, results = { NULL, -1 };

/* DIR/name; lives to the end of the program. */
static char *in_dir(const char *name) {
    Buf b = { 0 };
    buf_add(&b, opt.out, strlen(opt.out));
    buf_add(&b, "/", 1);
    buf_add(&b, name, strlen(name));
    return b.data;
}

/* ------------------------------------------------------------------------------------------------
 * Answers */

/* A checksum of the model: its size and 64 pieces, spread over the file. */
static uint32_t model_sum(const char *path) {
    Map m;
    Error e;
    uint32_t crc = 0;
    enum { PIECES = 64, PIECE = 65536 };
    if (!map_file(&m, path, &e)) die("%s: %s", path, e.text);
    crc = crc32c(crc, &m.size, sizeof m.size);
    for (size_t i = 0; i < PIECES; i++) {
        size_t at = m.size / PIECES * i, n = m.size - at < PIECE ? m.size - at : PIECE;
        crc = crc32c(crc, m.data + at, n);
    }
    unmap_file(&m);
    return crc;
}

/* Gives every answer the checksum of what it is made from. */
static void mark_runs(void) {
    const GenerateOptions *g = &opt.generate;
    const double number[] = { g->temperature,  g->top_p,         (double)g->top_k,
                              (double)g->seed, (double)g->n_new, (double)g->ctx,
                              g->exact,        opt.prompt.chat,  opt.prompt.compat };
    uint32_t model = crc32c(model_sum(g->model), number, sizeof number);
    if (g->lora) model ^= model_sum(g->lora);
    Buf text = { 0 };
    for (size_t i = 0; i < all.n; i++) {
        Str stop[MAX_STOPS];
        text.n = 0;
        prompt_text(&tasks, all.c[i].task, &opt.prompt, &text);
        int n = prompt_stops(all.c[i].task, &opt.prompt, stop);
        for (int k = 0; k < n; k++) buf_add(&text, stop[k].s, stop[k].n);
        all.c[i].run = crc32c(model, text.data, text.n);
        all.c[i].run += all.c[i].run == 0; /* 0 means unknown */
    }
    buf_free(&text);
}

/* An answer is there: a line of the journal. */
static void answer_done(Completion *c) {
    Buf line = { 0 };
    put_completion(&line, c);
    journal_add(&answers, &line);
    buf_free(&line);
}

/* Answers of the model: those of an earlier run, and the rest anew. */
static void generate_answers(void) {
    const char *path = opt.out ? in_dir("completions.jsonl") : NULL;
    bool sampled = opt.generate.temperature > 0;
    if (opt.generate.n_samples > 1 && !sampled)
        die_usage("-n: %lld samples without -t, expected a temperature above 0: all samples would "
                  "be the same",
                  (long long)opt.generate.n_samples);
    for (size_t i = 0; i < tasks.n; i++)
        for (int s = 0; s < opt.generate.n_samples; s++) completions_add(&all, &tasks.task[i], s);
    mark_runs();
    if (path && opt.restart && unlink(path) && errno != ENOENT)
        die("%s: cannot remove: %s", path, strerror(errno));
    size_t n = 0, old = path ? completions_resume(&all, &tasks, path) : 0;
    Completion **todo = xcalloc(all.n, sizeof *todo, "answers");
    for (size_t i = 0; i < all.n; i++)
        if (!all.c[i].text.data) todo[n++] = &all.c[i];
    if (old && !opt.quiet)
        fprintf(stderr, "%s: %zu of %zu answers are there already\n", path, old, all.n);
    if (path) journal_open(&answers, path);
    if (n) generate(&tasks, todo, n, &opt.generate, &opt.prompt, answer_done);
    journal_close(&answers);
    free(todo);
}

static void read_answers(void) {
    if (opt.completions) {
        completions_read(&all, &tasks, opt.completions);
    } else if (opt.canonical) {
        for (size_t i = 0; i < tasks.n; i++) {
            if (!tasks.task[i].solution.n) continue;
            Completion *c = completions_add(&all, &tasks.task[i], 0);
            buf_add(&c->text, tasks.task[i].solution.s, tasks.task[i].solution.n);
        }
        if (!all.n) die("%s: no solutions in it, expected some for --canonical", tasks.path);
    } else {
        generate_answers();
    }
}

/* ------------------------------------------------------------------------------------------------
 * Programs and outcomes */

static void show_progress(const char *what, size_t done, size_t n) {
    static double shown;
    double now = now_seconds();
    if (opt.quiet || !isatty(2) || (done < n && now - shown < 0.2)) return;
    shown = now;
    fprintf(stderr, "\r%s: %zu of %zu answers%s", what, done, n, done == n ? "\n" : "");
}

static void make_programs(void) {
    size_t done = 0;
    bool asked = opt.postprocess != NULL; /* else programs that came with their answers stay */
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < all.n; i++) {
        Completion *c = &all.c[i];
        if (!c->program.data || (asked && c->text.n)) postprocess(c, how, &opt.prompt);
#pragma omp critical
        show_progress("finding programs", ++done, all.n);
    }
}

static uint32_t key_of(const Completion *c) { return grade_key(c, &opt.grade); }

static void grade_all(void) {
    const char *path = opt.out ? in_dir("results.jsonl") : NULL;
    size_t done = path ? results_resume(&all, &tasks, path, key_of) : 0;
    if (done && !opt.quiet)
        fprintf(stderr, "%s: %zu of %zu answers are graded already\n", path, done, all.n);
    if (path) journal_open(&results, path);
    if (done < all.n) languages_try(&all);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < all.n; i++) {
        Completion *c = &all.c[i];
        if (c->outcome.verdict != NOT_GRADED) continue;
        Buf line = { 0 };
        grade(c, &opt.grade);
        put_result(&line, c, key_of(c));
#pragma omp critical
        {
            journal_add(&results, &line);
            show_progress("grading", ++done, all.n);
        }
        buf_free(&line);
    }
    journal_close(&results);
}

/* ------------------------------------------------------------------------------------------------
 * Reports */

static void write_text(const char *name, const Buf *text) {
    OutFile out;
    char *path = in_dir(name);
    out_open(&out, path);
    out_write(&out, text->data, text->n);
    out_commit(&out);
    free(path);
}

/* The journals, in order and without what is no longer true. */
static void write_lines(bool with_results) {
    Buf answer = { 0 }, result = { 0 };
    buf_add(&answer, "", 0);
    for (size_t i = 0; i < all.n; i++) {
        put_completion(&answer, &all.c[i]);
        if (with_results) put_result(&result, &all.c[i], key_of(&all.c[i]));
    }
    if (opt.out && opt.generate.model) write_text("completions.jsonl", &answer);
    if (opt.out && with_results) write_text("results.jsonl", &result);
    if (!opt.out && !with_results) fwrite(answer.data, 1, answer.n, stdout);
    buf_free(&answer);
    buf_free(&result);
}

/* The numbers in --k. */
static int read_ks(int k[8]) {
    int n = 0;
    for (const char *p = opt.k; *p; p += *p == ',') {
        char number[16];
        size_t len = strcspn(p, ",");
        snprintf(number, sizeof number, "%.*s", (int)(len < 15 ? len : 15), p);
        if (n == 8) die_usage("--k: %s, expected at most 8 numbers", opt.k);
        k[n++] = (int)parse_int("--k", number, 1, 1000000);
        p += len;
    }
    return n;
}

enum { MAX_SCORES = 32 };

/* All answers together, then by benchmark and by language where there are several. */
static int make_scores(Score *s) {
    int k[8], n_k = read_ks(k), n = 1, kinds = 0;
    score(&s[0], &tasks, &all, NULL, -1, k, n_k);
    snprintf(s[0].name, sizeof s[0].name, "all");
    for (int kind = 0; kind < N_KINDS; kind++) {
        score(&s[n], &tasks, &all, NULL, kind, k, n_k);
        snprintf(s[n].name, sizeof s[n].name, "%s", kind_name[kind]);
        if (s[n].n_tasks) n++, kinds++;
    }
    if (kinds == 1) n = 1;
    int first = n;
    for (size_t i = 0; i < tasks.n && n < MAX_SCORES; i++) {
        const Language *l = tasks.task[i].language;
        bool seen = false;
        for (int j = first; j < n; j++) seen |= !strcmp(s[j].name, l->name);
        if (seen) continue;
        score(&s[n], &tasks, &all, l, -1, k, n_k);
        snprintf(s[n].name, sizeof s[n].name, "%s", l->name);
        if (s[n].n_tasks) n++;
    }
    return n == first + 1 ? first : n;
}

/* A score without answers that the sandbox failed to run would be wrong. */
static void expect_all_run(void) {
    size_t broken = 0;
    for (size_t i = 0; i < all.n; i++) {
        const char *r = all.c[i].outcome.verdict == NOT_RUN ? all.c[i].outcome.reason : "";
        broken += strstr(r, "sandbox: ") || strstr(r, "does not start in a box");
    }
    if (broken)
        die("%s: %zu of %zu answers: the sandbox failed, expected verdicts; -o lets a run go on",
            tasks.path, broken, all.n);
}

static void report(void) {
    static Score s[MAX_SCORES];
    int n = make_scores(s);
    Buf text = { 0 }, picture = { 0 };
    put_summary(&text, s, n, &all, opt.failures);
    if (!opt.quiet) fwrite(text.data, 1, text.n, stderr);
    if (opt.out) write_lines(true);
    expect_all_run();
    if (opt.out) {
        write_text("summary.txt", &text);
        draw_bars(&picture, s, n, tasks.path);
        write_text("scores.svg", &picture);
    }
    if (!s[0].total)
        die("%s: none of the %zu answers could be run, expected some; see above", tasks.path,
            all.n);
    printf("%zu/%zu %.1f %%\n", s[0].passed, s[0].total,
           100 * (double)s[0].passed / (double)s[0].total);
    for (int i = 1; i < s[0].n_at; i++)
        printf("pass@%d %.1f %%\n", s[0].at[i].k, 100 * s[0].at[i].value);
    buf_free(&text);
    buf_free(&picture);
}

static void warn_missing(void) {
    size_t missing = 0;
    char *has = xcalloc(tasks.n, 1, "tasks");
    for (size_t i = 0; i < all.n; i++) has[all.c[i].task - tasks.task] = 1;
    for (size_t i = 0; i < tasks.n; i++) missing += !has[i];
    if (missing && !opt.quiet)
        fprintf(stderr, "%s: %zu of %zu tasks have no answer and do not count\n", tasks.path,
                missing, tasks.n);
    free(has);
}

/* {"task_id", "prompt", "stop"} of every task, on stdout. */
static void print_prompts(void) {
    Buf line = { 0 }, prompt = { 0 };
    Str stop[MAX_STOPS];
    for (size_t i = 0; i < tasks.n; i++) {
        const Task *k = &tasks.task[i];
        line.n = prompt.n = 0;
        prompt_text(&tasks, k, &opt.prompt, &prompt);
        json_open(&line, '{');
        json_put_key(&line, "task_id");
        json_put_str(&line, k->id);
        json_put_key(&line, "prompt");
        json_put_str(&line, (Str){ prompt.data, prompt.n });
        json_put_key(&line, "stop");
        json_open(&line, '[');
        for (int n = prompt_stops(k, &opt.prompt, stop), s = 0; s < n; s++)
            json_put_str(&line, stop[s]);
        json_close(&line, ']');
        json_close(&line, '}');
        buf_add(&line, "\n", 1);
        fwrite(line.data, 1, line.n, stdout);
    }
    buf_free(&line);
    buf_free(&prompt);
}

/* ------------------------------------------------------------------------------------------------
 * Command line */

static const char usage[] =
    "usage: evaluate [MODEL] TASKS.jsonl [options]\n"
    "       evaluate TASKS.jsonl --completions FILE.jsonl [options]\n"
    "Lets a model solve programming tasks, runs its programs with their tests in a sandbox and\n"
    "prints passed/total. TASKS: HumanEval(+), MBPP(+), MultiPL-E, LiveCodeBench, or lines of\n"
    "{\"task_id\", \"prompt\", \"tests\", \"language\"}; see eval/tasks.c. MODEL: a GGUF file;\n"
    "without one, models/tiny.bin beside this program.\n"
    "  ./evaluate model.bin HumanEval.jsonl -o out\n"
    "  ./evaluate chat.bin mbpp.jsonl --chat -n 20 -t 0.8 -o out\n";

static const Option options[] = {
    { 'o', "output", NULL, "DIR", OPT_TEXT, &opt.out, 0, 0,
      "keep answers, results, table and bars there; goes on where a run stopped" },
    { 0, "completions", NULL, "FILE", OPT_TEXT, &opt.completions, 0, 0,
      "grade these answers: JSON Lines of task_id and completion (or solution: all of it)" },
    { 0, "canonical", NULL, NULL, OPT_FLAG, &opt.canonical, 0, 0,
      "grade the solutions that the task file has" },
    { 0, "generate-only", NULL, NULL, OPT_FLAG, &opt.generate_only, 0, 0,
      "write the answers (to DIR, or stdout) and run nothing" },
    { 0, "restart", NULL, NULL, OPT_FLAG, &opt.restart, 0, 0,
      "throw away the answers that DIR has" },
    { 0, "show-prompts", NULL, NULL, OPT_FLAG, &opt.show_prompts, 0, 0,
      "print what a model would be asked, as JSON Lines, and end" },
    { 0, "tasks", NULL, "RANGE", OPT_TEXT, &opt.tasks, 0, 0,
      "N: the first N; A-B: those with these numbers" },
    { 0, "chat", "instruct", NULL, OPT_FLAG, &opt.prompt.chat, 0, 0,
      "the model answers messages; else it continues text" },
    { 0, "zero-shot", NULL, NULL, OPT_FLAG, &opt.prompt.zero_shot, 0, 0,
      "MBPP without three examples in the prompt" },
    { 0, "base-tests", NULL, NULL, OPT_FLAG, &opt.base_tests, 0, 0,
      "MBPP+ with the few tests of MBPP" },
    { 0, "opencodeeval", NULL, NULL, OPT_FLAG, &opt.prompt.compat, 0, 0,
      "what OpenCodeEval does by accident, too; see eval/prompts.c" },
    { 0, "prompt-prefix", NULL, "TEXT", OPT_TEXT, &opt.prompt.prefix, 0, 0,
      "what a chat's question begins with, instead of the usual sentence" },
    { 0, "prompt-suffix", NULL, "TEXT", OPT_TEXT, &opt.prompt.suffix, 0, 0, "and behind the task" },
    { 0, "language", NULL, "NAME", OPT_TEXT, &opt.language, 0, 0,
      "of tasks that do not say it [python]" },
    { 'n', "samples", "n-samples", "N", OPT_INT, &opt.generate.n_samples, 1, 10000,
      "answers to each task" },
    { 't', "temp", "temperature", "T", OPT_FLOAT, &opt.generate.temperature, 0, 100,
      "0: always the likeliest token" },
    { 'p', "top-p", NULL, "P", OPT_FLOAT, &opt.generate.top_p, 0, 1,
      "sample from the likeliest that reach P" },
    { 0, "top-k", NULL, "K", OPT_INT, &opt.generate.top_k, 0, 1 << 20,
      "sample from the K likeliest; 0: all" },
    { 's', "seed", NULL, "N", OPT_INT, &opt.generate.seed, 0, 9e15, "of the sampling" },
    { 0, "max-tokens", NULL, "N", OPT_INT, &opt.generate.n_new, 1, 1 << 20, "in an answer" },
    { 'c', "ctx-size", "ctx", "N", OPT_INT, &opt.generate.ctx, 0, 1 << 24,
      "context in tokens; 0: what prompts and answers need" },
    { 'b', "batch", NULL, "N", OPT_INT, &opt.generate.n_seq, 1, 256, "answers at a time" },
    { 0, "exact", NULL, NULL, OPT_FLAG, &opt.generate.exact, 0, 0,
      "float32 activations for every type" },
    { 0, "lora", NULL, "FILE", OPT_TEXT, &opt.generate.lora, 0, 0,
      "apply an adapter to the model" },
    { 0, "cpu", NULL, "NAME", OPT_TEXT, &opt.cpu, 0, 0, matmul_levels },
    { 0, "verify", NULL, NULL, OPT_FLAG, &opt.generate.verify, 0, 0,
      "check the checksums of large files too" },
    { 0, "postprocess", NULL, "HOW", OPT_TEXT, &opt.postprocess, 0, 0,
      "none, fence or opencodeeval [that, for a model's answers; none for --completions]" },
    { 0, "no-imports", NULL, NULL, OPT_FLAG, &opt.grade.no_imports, 0, 0,
      "no usual imports before Python programs" },
    { 0, "timeout", NULL, "S", OPT_FLOAT, &opt.grade.timeout, 0, 3600,
      "seconds; 0: 3 for HumanEval and MBPP, 6 LiveCodeBench, 15 MultiPL-E" },
    { 0, "memory", NULL, "MIB", OPT_INT, &opt.grade.memory, 16, 1 << 20, "of a program" },
    { 0, "unsafe", NULL, NULL, OPT_FLAG, &opt.grade.unsafe, 0, 0,
      "run programs although the sandbox lacks what it needs" },
    { 0, "k", NULL, "LIST", OPT_TEXT, &opt.k, 0, 0, "which pass@k to report [1,10,100]" },
    { 0, "failures", NULL, "N", OPT_INT, &opt.failures, 0, 1 << 30, "how many to list" },
    { 'j', "threads", NULL, "N", OPT_INT, &opt.threads, 0, 1024,
      "programs at a time; 0: as many as the machine offers" },
    { 0, "languages", NULL, NULL, OPT_FLAG, &opt.languages, 0, 0,
      "list the languages that can be run here" },
    { 'q', "quiet", NULL, NULL, OPT_FLAG, &opt.quiet, 0, 0, "nothing on stderr but errors" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

/* Refuses what does not go together, and fills in what follows from the rest. */
static void check_options(int n_paths) {
    bool given = opt.completions || opt.canonical;
    if (!n_paths) die_usage("no TASKS.jsonl given, expected a file of tasks");
    if (opt.completions && opt.canonical)
        die_usage("--completions and --canonical: both given, expected one of them");
    if (given && opt.generate_only)
        die_usage("--generate-only: answers are given, expected a model to generate them");
    how = opt.postprocess ? post_find(opt.postprocess) : given ? POST_NONE : POST_OPENCODEEVAL;
    if (how < 0) die_usage("--postprocess: '%s', expected %s", opt.postprocess, post_names);
    if (opt.out && mkdir(opt.out, 0777) && errno != EEXIST)
        die("%s: cannot make the directory: %s", opt.out, strerror(errno));
    if (opt.out) out_sync_name(opt.out);
    if (!matmul_choose(opt.cpu)) die_usage("--cpu: '%s', expected an %s", opt.cpu, matmul_levels);
    if (!given && !opt.show_prompts)
        opt.generate.model =
            n_paths == 2 ? opt.path[0] : default_model(", or answers with --completions");
    if (given && n_paths == 2 && !opt.quiet)
        fprintf(stderr, "%s: not needed, the answers are given\n", opt.path[0]);
}

static void catch_signals(void) {
    struct sigaction bus = { .sa_handler = out_of_map }, ignore = { .sa_handler = SIG_IGN };
    struct sigaction interrupt = { .sa_handler = out_signal };
    if (sigaction(SIGBUS, &bus, NULL) || sigaction(SIGPIPE, &ignore, NULL) ||
        sigaction(SIGINT, &interrupt, NULL))
        die("signals: cannot install handlers: %s", strerror(errno));
}

/* MBPP has its test set among other tasks, three of which stand in every prompt. */
static void select_tasks(void) {
    bool mbpp = tasks.n_shots == 3 && tasks.n > 500 && !opt.completions && !opt.canonical;
    if (mbpp && !opt.tasks && !opt.quiet)
        fprintf(stderr, "%s: tasks 10 to 509, MBPP's test set; --tasks 1-974 takes all\n",
                tasks.path);
    if (opt.tasks)
        tasks_select(&tasks, opt.tasks);
    else if (mbpp)
        tasks_select(&tasks, "10-509");
}

int main(int argc, char **argv) {
    const Language *language = NULL;
    if (argc == 1) {
        fputs(usage, stderr);
        return 2;
    }
    int n_paths = parse_options(argc, argv, options, usage, opt.path, 2), k[8];
    catch_signals();
    read_ks(k);
    if (opt.languages) {
        grade_open(&opt.grade);
        languages_print();
        sandbox_close();
        close_stdout();
        return 0;
    }
    if (opt.language && !(language = language_find(str_of(opt.language))))
        die_usage("--language: '%s', expected one that --languages lists", opt.language);
    check_options(n_paths);
    opt.grade.quiet = opt.generate.quiet = opt.quiet;
#ifdef _OPENMP
    if (opt.threads) omp_set_num_threads((int)opt.threads);
#endif
    tasks_open(&tasks, opt.path[n_paths - 1], opt.base_tests, language);
    select_tasks();
    if (opt.show_prompts) {
        print_prompts();
        tasks_close(&tasks);
        close_stdout();
        return 0;
    }
    bool boxes = !opt.generate_only || how == POST_OPENCODEEVAL;
    if (boxes) grade_open(&opt.grade); /* first: what cannot be graded need not be generated */
    read_answers();
    warn_missing();
    make_programs();
    if (opt.generate_only) {
        write_lines(false);
    } else {
        grade_all();
        report();
    }
    if (boxes) sandbox_close();
    completions_free(&all);
    tasks_close(&tasks);
    close_stdout();
    return 0;
}
