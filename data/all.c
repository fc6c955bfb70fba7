/* all.c: `./refine all`, from sources to clean text in one process.
 *
 *     ./refine all SOURCES/ --against HumanEval.jsonl --stats stats.json > clean.jsonl
 *
 * What to know first: a duplicate is known only when everything was read. So there are two passes:
 *
 *     read, keys of contents  ->  temporary file  ->  dedup, transform, filter, sample,
 *                                                     decontaminate
 *
 * and the second one begins when the first has decided which file of a group stays. Budgets of
 * sample make it three: it waits until all that the filter lets pass was measured. The file, in
 * $TMPDIR, has no name and is gone with the process. The result is the same as that of the commands
 * one after the other. Test: tests/test_refine.py. */

#include "dedup.h"
#include "sample.h"

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

/* Fills the second pass, and where a budget must know all sizes before the first file is sampled,
 * the third. Returns the number of the last one. */
static int chain_stages(Pipeline *pass) {
    int last = 1;
    for (size_t i = 0; i < sizeof chain / sizeof *chain; i++) {
        const Stage *s = find_stage(chain[i]);
        if (!s || skips(chain[i])) continue;
        if (s == &decontaminate_stage && !decontaminate_wanted()) continue;
        if (s == &sample_stage && sample_before()) {
            pass[last].stage[pass[last].n_stages++] = sample_before();
            last++;
        }
        pass[last].stage[pass[last].n_stages++] = s;
    }
    return last;
}

/* Appends the statistics of a pass's first n stages. */
static void add_stats(Pipeline *total, const Pipeline *pass, int n) {
    for (int i = 0; i < n; i++) total->stats[total->n_stages++] = pass->stats[i];
    total->seconds += pass->seconds;
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
    Pipeline pass[3] = { { .stage = { &read_stage, &dedup_exact_keys, &dedup_near_keys } },
                         { .stage = { &dedup_keep }, .n_stages = dedup } };
    Output *out;
    pass[0].n_stages = !dedup ? 1 : dedup_options.near ? 3 : 2;
    int last = chain_stages(pass);
    pass[0].in = source_files(path, n);
    out = output_open(common.out, common.zstd);
    for (int i = 0; i <= last; i++) {
        pass[i].what = i ? "refine" : "read";
        pass[i].verbose = common.verbose;
        pass[i].out = i == last ? out : output_spool();
        pipeline_run(&pass[i]);
        source_close(pass[i].in);
        if (i == 0 && dedup) dedup_decide();
        if (i == 1 && last == 2) sample_decide();
        if (i < last) pass[i + 1].in = source_spool(pass[i].out);
    }
    output_commit(out);

    Pipeline total = { .broken = pass[0].broken, .broken_why = pass[0].broken_why };
    total.verbose = common.verbose;
    add_stats(&total, &pass[0], 1);
    add_stats(&total, &pass[1], pass[1].n_stages - (last == 2)); /* without the sizes */
    add_stats(&total, &pass[2], pass[2].n_stages);
    if (common.stats) write_stats(&total, common.stats);
    pipeline_report(&total);
    for (int i = 0; i < 3; i++) pipeline_free(&pass[i]);
    return 0;
}
