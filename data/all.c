/* all.c: `./refine all`, from sources to clean text in one process.
 *
 *     ./refine all SOURCES/ --against HumanEval.jsonl --stats stats.json > clean.jsonl
 *
 * What to know first: a duplicate is known only when everything was read. So there are two passes:
 *
 *     read, keys of contents  ->  temporary file  ->  dedup, transform, filter, sample,
 *                                                     decontaminate
 *
 * and the second one begins when the first has decided which file of a group stays. The file, in
 * $TMPDIR, has no name and is gone with the process. The result is the same as that of the commands
 * one after the other. Test: tests/test_refine.py. */

#include "dedup.h"

static TextList skipped;

static const Option own[] = {
    { 0, "skip", NULL, "STAGE", OPT_LIST, &skipped, 0, 0, "leave out this stage; repeatable" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

static const char usage[] =
    "usage: refine all INPUT... [options]   read, dedup, transform, filter, sample, decontaminate\n"
    "Inputs are those of read; the options those of all stages (refine STAGE -h). Decontaminate\n"
    "runs where --against is given.\n";

static const char *const chain[] = { "transform", "filter", "sample", "decontaminate" };

static bool skips(const char *name) {
    for (int i = 0; i < skipped.n; i++)
        if (!strcmp(skipped.text[i], name)) return true;
    return false;
}

/* The options of all stages. Of a name that two of them have, the first one's counts. */
static void gather(Option *table, int most) {
    const Option *part[8] = { own, read_stage.options, dedup_table };
    int n = 0, parts = 3;
    for (size_t i = 0; i < sizeof chain / sizeof *chain; i++)
        if (find_stage(chain[i])) part[parts++] = find_stage(chain[i])->options;
    for (int k = 0; k < parts; k++)
        for (const Option *o = part[k]; o && o->name; o++) {
            bool known =
                !strcmp(o->name, "emit") || !strcmp(o->name, "group") || !strcmp(o->name, "drop");
            for (int i = 0; i < n; i++) known |= !strcmp(table[i].name, o->name);
            if (known) continue;
            if (n == most - 1) die("options: %d, expected fewer", n);
            table[n++] = *o;
        }
    table[n] = (Option){ 0 };
}

static void check_skipped(void) {
    for (int i = 0; i < skipped.n; i++) {
        bool known = !strcmp(skipped.text[i], "dedup");
        for (size_t k = 0; k < sizeof chain / sizeof *chain; k++)
            known |= !strcmp(skipped.text[i], chain[k]);
        if (!known)
            die_usage("--skip: '%s', expected dedup, transform, filter, sample or decontaminate",
                      skipped.text[i]);
    }
}

int run_all(int argc, char **argv) {
    Option table[80];
    const char *path[4096];
    gather(table, 80);
    int n = refine_options(argc, argv, table, usage, path, 4096);
    if (common.resume) die_usage("--resume: given with all, which must see all documents");
    check_skipped();
    dedup_check();
    bool dedup = !skips("dedup");
    Pipeline first = { .stage = { &read_stage, &dedup_exact_keys, &dedup_near_keys } };
    Pipeline second = { .stage = { &dedup_keep }, .n_stages = dedup };
    first.what = "read", second.what = "refine";
    first.verbose = second.verbose = common.verbose;
    first.n_stages = !dedup ? 1 : dedup_options.near ? 3 : 2;
    for (size_t i = 0; i < sizeof chain / sizeof *chain; i++) {
        const Stage *s = find_stage(chain[i]);
        bool last = i + 1 == sizeof chain / sizeof *chain;
        if (s && !skips(chain[i]) && (!last || decontaminate_wanted()))
            second.stage[second.n_stages++] = s;
    }
    first.in = source_files(path, n);
    second.out = output_open(common.out, common.zstd);
    first.out = output_spool();
    pipeline_run(&first);
    source_close(first.in);
    if (dedup) dedup_decide();
    second.in = source_spool(first.out);
    pipeline_run(&second);
    output_commit(second.out);
    source_close(second.in);

    Pipeline total = { .n_stages = 1 + second.n_stages, .broken = first.broken };
    total.broken_why = first.broken_why;
    total.verbose = common.verbose;
    total.seconds = first.seconds + second.seconds;
    total.stats[0] = first.stats[0];
    memcpy(total.stats + 1, second.stats, (size_t)second.n_stages * sizeof *second.stats);
    if (common.stats) write_stats(&total, common.stats);
    pipeline_report(&total);
    pipeline_free(&first);
    pipeline_free(&second);
    return 0;
}
