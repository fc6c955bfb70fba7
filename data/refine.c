/* refine.c: `./refine`, RefineCode's data pipeline (arXiv 2411.04905, section 2.1): its commands.
 *
 *     ./refine read SOURCES/ > files.jsonl                    directories, git, tar, zip, notebooks
 *     ./refine dedup files.jsonl | ./refine transform | ./refine filter > clean.jsonl
 *     ./refine all SOURCES/ > clean.jsonl                     the whole chain in one process
 *     ./refine filter -h                                      what a command can do
 *
 * What to know first: a command is either a Stage, which sees one document at a time (refine.h says
 * how to write one; the table below is where it is entered), or a function of its own.
 * Build: make refine. Test: tests/test_refine.py. */

#include "dedup.h"    /* run_dedup */
#include "instruct.h" /* run_instruct, run_synth */
#include "mix.h"      /* run_mix */
#include "recall.h"   /* run_recall */
#include "refine.h"
#include "sample.h" /* run_budgets */
#ifdef __GLIBC__
#include <malloc.h> /* mallopt */
#endif

Common common;

static void protect(const char **path, int n, const char *out) {
    for (int i = 0; out && i < n; i++)
        if (same_file(path[i], out))
            die_usage("%s: is read and to be written, expected another name", out);
}

static const Option common_options[] = {
    { 'o', "output", NULL, "PATH", OPT_TEXT, &common.out, 0, 0,
      "write to this file, or a file for each input into this directory [stdout]" },
    { 'j', "threads", NULL, "N", OPT_INT, &common.threads, 0, 1024, "0: as the machine offers" },
    { 0, "stats", NULL, "FILE", OPT_TEXT, &common.stats, 0, 0, "write the statistics as JSON" },
    { 'v', "verbose", NULL, NULL, OPT_FLAG, &common.verbose, 0, 0,
      "name on stderr what is broken or dropped, and why" },
    { 'q', "quiet", NULL, NULL, OPT_FLAG, &common.quiet, 0, 0, "no progress, no table on stderr" },
    { 0, "zstd", NULL, NULL, OPT_FLAG, &common.zstd, 0, 0, "compress what goes to stdout" },
    { 0, "resume", NULL, NULL, OPT_FLAG, &common.resume, 0, 0,
      "into a directory: leave out inputs whose output is there" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

enum { MOST_OPTIONS = 100 };

int refine_options(int argc, char **argv, const Option *own, const char *usage, const char **path,
                   int most) {
    Option table[MOST_OPTIONS];
    int n = 0, k = (int)(sizeof common_options / sizeof *common_options);
    for (; own && own[n].name; n++) {
        if (n + k == MOST_OPTIONS) die("options: more than %d, expected fewer", n);
        table[n] = own[n];
    }
    memcpy(table + n, common_options, sizeof common_options);
    n = parse_options(argc, argv, table, usage, path, most);
    common.n_threads = set_threads(common.threads);
    protect(path, n, common.stats);
    if (common.stats) out_try(common.stats, common.out); /* before the work, not behind it */
    return n;
}

/* ------------------------------------------------------------------------------------------------
 * Commands */

enum { MOST_PATHS = 4096 };

typedef struct {
    const char *name, *help;
    const Stage *stage;
    int (*run)(int argc, char **argv);
} Command;

static const Command commands[] = {
    { "read", NULL, &read_stage, NULL },
    { "dedup", "drop exact and near duplicates", NULL, run_dedup },
    { "transform", NULL, &transform_stage, NULL },
    { "filter", NULL, &filter_stage, NULL },
    { "sample", NULL, &sample_stage, NULL },
    { "anneal", NULL, &anneal_stage, NULL },
    { "decontaminate", NULL, &decontaminate_stage, NULL },
    { "instruct", "instructions and answers from docstrings or conversations", NULL, run_instruct },
    { "synth", "a model writes training data; what passes its own tests stays", NULL, run_synth },
    { "recall", "pages about code from a web crawl", NULL, run_recall },
    { "stats", "files, bytes and languages, as a table and as SVG", NULL, run_stats },
    { "all", "the whole chain in one process", NULL, run_all },
    { NULL, NULL, NULL, NULL },
};

const Stage *find_stage(const char *name) {
    for (const Command *c = commands; c->name; c++)
        if (c->stage && !strcmp(c->name, name)) return c->stage;
    return NULL;
}

/* Is it there, and a directory? */
static bool is_directory(const char *path) {
    struct stat st;
    return path && !stat(path, &st) && S_ISDIR(st.st_mode);
}

/* One run over n inputs; adds to nothing but its own statistics. */
static void run_once(const Stage *stage, const char **path, int n, const char *out) {
    Pipeline p = { .stage = { stage }, .n_stages = 1, .what = stage->name };
    protect(path, n, out);
    p.verbose = common.verbose;
    p.in = stage == &read_stage ? source_files(path, n) : source_lines(path, n);
    p.out = output_open(out, common.zstd);
    pipeline_run(&p);
    output_commit(p.out);
    if (common.stats) write_stats(&p, common.stats);
    pipeline_report(&p);
    source_close(p.in);
    pipeline_free(&p);
}

/* Each input to a file of its name in the directory: what is there is done. */
static void run_each(const Stage *stage, const char **path, int n, const char *dir) {
    if (common.stats) die_usage("--stats: given with a directory for -o, expected a file");
    for (int i = 0; i < n; i++) {
        const char *slash = strrchr(path[i], '/');
        Buf out = { NULL, 0, 0 };
        buf_printf(&out, "%.500s/%.300s", dir, slash ? slash + 1 : path[i]);
        if (!common.resume || access(out.data, F_OK)) run_once(stage, path + i, 1, out.data);
        buf_free(&out);
    }
}

/* Where options ask for what takes more than one pass, it is done here; false: they do not. */
static bool run_passes(const Stage *stage, const char **path, int n) {
    return (stage == &sample_stage && run_budgets(path, n)) ||
           (stage == &anneal_stage && run_mix(path, n));
}

static int run_command(const Stage *stage, int argc, char **argv) {
    Buf usage = { NULL, 0, 0 };
    const char *path[MOST_PATHS];
    buf_printf(&usage, "usage: refine %s %s [options]   %s\n%.700s", stage->name,
               stage == &read_stage ? "INPUT..." : "[FILE.jsonl[.zst]...]", stage->help,
               stage->about);
    int n = refine_options(argc, argv, stage->options, usage.data, path, MOST_PATHS);
    if (run_passes(stage, path, n)) {
        buf_free(&usage);
        return 0;
    }
    if (is_directory(common.out))
        run_each(stage, path, n, common.out);
    else if (common.resume)
        die_usage("--resume: expected a directory for -o");
    else
        run_once(stage, path, n, common.out);
    buf_free(&usage);
    return 0;
}

#ifndef OC_LIBRARY
static void help(void) {
    puts("usage: refine COMMAND [FILE...] [options]\n"
         "RefineCode's data pipeline: from raw source files to clean training text. Documents are\n"
         "lines of JSON with repo, path, language, content and more; from files to stdout.\n"
         "commands (refine COMMAND -h says more):");
    for (const Command *c = commands; c->name; c++)
        printf("  %-15s %s\n", c->name, c->stage ? c->stage->help : c->help);
}

int main(int argc, char **argv) {
#ifdef M_MMAP_THRESHOLD /* memory of long documents is used again, not given back each time */
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
    if (argc < 2) die_usage("no command, expected one of those that refine -h lists");
    if (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help")) {
        help();
        close_stdout();
        return 0;
    }
    if (!strcmp(argv[1], "--version")) {
        puts("opencoder.c " OC_VERSION);
        close_stdout();
        return 0;
    }
    for (const Command *c = commands; c->name; c++) {
        if (strcmp(c->name, argv[1])) continue;
        return c->stage ? run_command(c->stage, argc - 1, argv + 1) : c->run(argc - 1, argv + 1);
    }
    die_usage("'%s': unknown command, expected one of those that refine -h lists", argv[1]);
}
#endif
