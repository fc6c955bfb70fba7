/* training.c: what the classifier of `./refine recall` learns from. See recall.h.
 *
 * What to know first: the words of the seed stand in a file, a page a line, which grows by what
 * patterns have found. The other side is a sample of pages that were not recalled: those with the
 * smallest hashes of their addresses, so that it is the same in any order and from any number of
 * threads. How small is only known at the end; a page is written to a file when its hash is among
 * the k smallest so far, which happens about k (1 + ln(pages / k)) times. Memory: 8 bytes for each
 * page of the sample. All files lie in a directory of their own in $TMPDIR, recall.HOST.N.tmp-PID,
 * which goes at the end, also by Ctrl-C; what a killed run leaves goes when the next one begins on
 * the same machine. Test: tests/test_recall.py. */

#include "recall.h"

enum { DIRECTORY, SEED, TRAIN, MODEL, VECTORS, LOG, SAMPLE, N_FILES };

static char name[N_FILES][1024]; /* of the directory and what is in it; "": not there */
static FILE *seed;
static uint64_t n_seed;
static struct {
    uint64_t *heap; /* the largest at the top */
    size_t n, most;
    FILE *file;
} drawn;

/* ------------------------------------------------------------------------------------------------
 * 1. The directory */

static void remove_files(void) {
    for (int i = SEED; i < N_FILES; i++)
        if (name[DIRECTORY][0]) unlink(name[i]);
    if (name[DIRECTORY][0]) rmdir(name[DIRECTORY]);
    name[DIRECTORY][0] = 0;
}

static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
static struct sigaction before[3]; /* what happened at a signal, and still does after this */

static void on_signal(int sig) {
    classifier_kill();
    remove_files();
    for (int i = 0; i < 3; i++)
        if (signals[i] == sig && before[i].sa_handler != SIG_DFL) before[i].sa_handler(sig);
    _exit(128 + sig);
}

/* Makes the directory; other machines may share $TMPDIR, and they do not know our processes. */
static void make_directory(char place[1000]) {
    const char *dir = getenv("TMPDIR");
    char host[72] = "", begin[960];
    bool made = false;
    (void)gethostname(host, sizeof host - 1); /* at most 64 bytes; none: still a name */
    for (char *c = host; *c; c++) *c = isalnum((uint8_t)*c) ? *c : '-';
    snprintf(begin, sizeof begin, "%.880s/recall.%s", dir && *dir ? dir : "/tmp", host);
    out_sweep(begin);
    for (int i = 0; i < 100 && !made; i++) {
        snprintf(place, 1000, "%s.%d.tmp-%ld", begin, i, (long)getpid());
        made = !mkdir(place, 0700);
        if (!made && errno != EEXIST) break;
    }
    if (!made) die("%s: cannot create: %s; TMPDIR names another place", place, strerror(errno));
}

void training_open(void) {
    static const char *const part[N_FILES] = { "",           "/seed.txt",  "/train.txt",
                                               "/model.bin", "/model.vec", "/log",
                                               "/sample.txt" };
    char place[1000];
    make_directory(place);
    for (int i = N_FILES - 1; i >= 0; i--) snprintf(name[i], 1024, "%s%s", place, part[i]);
    if (atexit(remove_files)) die("%s: cannot register a clean-up", place);
    struct sigaction act = { 0 };
    act.sa_handler = on_signal;
    for (int i = 0; i < 3; i++)
        if (!sigaction(signals[i], NULL, &before[i]) && before[i].sa_handler != SIG_IGN)
            sigaction(signals[i], &act, NULL);
    seed = fopen(name[SEED], "w+e");
    if (!seed) die("%s: cannot create: %s", name[SEED], strerror(errno));
    n_seed = 0;
}

static void sample_free(void) {
    if (drawn.file) fclose(drawn.file);
    free(drawn.heap);
    memset(&drawn, 0, sizeof drawn);
}

void training_close(void) {
    sample_free();
    if (seed) fclose(seed);
    seed = NULL;
    remove_files();
    for (int i = 0; i < 3; i++)
        if (before[i].sa_handler != SIG_IGN) sigaction(signals[i], &before[i], NULL);
}

static void write_text(FILE *f, const char *what, const char *s, size_t n) {
    if (fwrite(s, 1, n, f) != n) die("%s: cannot write: %s", what, strerror(errno));
}

void training_seed(Str line) {
    write_text(seed, name[SEED], line.s, line.n);
    write_text(seed, name[SEED], "\n", 1);
    n_seed++;
}

uint64_t training_seeds(void) { return n_seed; }
uint64_t training_sampled(void) { return drawn.n; }

/* ------------------------------------------------------------------------------------------------
 * 2. The sample */

void training_sample_begin(uint64_t most) {
    sample_free();
    drawn.most = (size_t)most;
    drawn.heap = (uint64_t *)xcalloc(drawn.most, sizeof *drawn.heap, "sample");
    drawn.file = fopen(name[SAMPLE], "w+e");
    if (!drawn.file) die("%s: cannot create: %s", name[SAMPLE], strerror(errno));
    unlink(name[SAMPLE]); /* stays until it is closed */
}

static void sift_down(uint64_t *heap, size_t n, uint64_t v) {
    size_t i = 0;
    for (size_t k; (k = 2 * i + 1) < n; i = k) {
        if (k + 1 < n && heap[k + 1] > heap[k]) k++;
        if (heap[k] <= v) break;
        heap[i] = heap[k];
    }
    heap[i] = v;
}

void training_sample(uint64_t hash, Str line) {
    char text[24];
    size_t i = drawn.n;
    if (drawn.n == drawn.most) {
        if (!drawn.n || hash >= drawn.heap[0]) return;
        sift_down(drawn.heap, drawn.n, hash);
    } else {
        for (drawn.n++; i && drawn.heap[(i - 1) / 2] < hash; i = (i - 1) / 2)
            drawn.heap[i] = drawn.heap[(i - 1) / 2];
        drawn.heap[i] = hash;
    }
    int n = snprintf(text, sizeof text, "%016llx ", (unsigned long long)hash);
    write_text(drawn.file, "temporary file", text, (size_t)n);
    write_text(drawn.file, "temporary file", line.s, line.n);
    write_text(drawn.file, "temporary file", "\n", 1);
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Training */

/* The next line of a file in which it is known to be. */
static char *next_line(FILE *f, const char *what, char **line, size_t *cap) {
    errno = 0;
    if (getline(line, cap, f) <= 0)
        die("%s: cannot read: %s", what, errno ? strerror(errno) : "it has become shorter");
    return *line;
}

/* Reads on to the next line of the sample whose hash is at most `last`; its words. */
static char *next_sampled(char **line, size_t *cap, uint64_t last) {
    enum { HASH = 17 }; /* 16 digits and a space: training_sample has written them */
    while (strtoull(next_line(drawn.file, "temporary file", line, cap), NULL, 16) > last) continue;
    return *line + HASH;
}

static void write_example(FILE *f, const char *label, const char *words) {
    write_text(f, name[TRAIN], label, strlen(label));
    write_text(f, name[TRAIN], words, strlen(words));
}

/* Both sides mixed evenly: fastText takes the lines as they come. */
static void write_examples(uint64_t n_other, uint64_t last) {
    FILE *f = fopen(name[TRAIN], "we");
    char *yes = NULL, *no = NULL;
    size_t yes_cap = 0, no_cap = 0;
    if (!f) die("%s: cannot create: %s", name[TRAIN], strerror(errno));
    if (fflush(seed) || fflush(drawn.file))
        die("temporary file: cannot write: %s", strerror(errno));
    rewind(seed), rewind(drawn.file);
    for (uint64_t i = 0, k = 0; i < n_seed || k < n_other;) {
        bool first = i < n_seed && (k >= n_other || i * n_other <= k * n_seed);
        if (first)
            write_example(f, "__label__code ", next_line(seed, name[SEED], &yes, &yes_cap));
        else
            write_example(f, "__label__other ", next_sampled(&no, &no_cap, last));
        i += first;
        k += !first;
    }
    free(yes), free(no);
    if (fclose(f)) die("%s: cannot write: %s", name[TRAIN], strerror(errno));
    if (fseek(seed, 0, SEEK_END)) die("%s: %s", name[SEED], strerror(errno));
}

const char *training_run(uint64_t wanted, uint64_t *n_other) {
    char prefix[1024];
    uint64_t n = drawn.n < wanted ? drawn.n : wanted;
    if (!n_seed) die("--seed: no page with text, expected some that are code-related");
    if (!n) die("the crawl has no page that is not in the seed, expected some to learn from");
    qsort(drawn.heap, drawn.n, sizeof *drawn.heap, by_size);
    write_examples(n, drawn.heap[n - 1]);
    snprintf(prefix, sizeof prefix, "%.1000s/model", name[DIRECTORY]);
    unlink(name[MODEL]);
    classifier_train(name[TRAIN], prefix, name[LOG]);
    unlink(name[VECTORS]); /* of words, which nobody asked for */
    unlink(name[TRAIN]);
    if (access(name[MODEL], R_OK)) die("%s: fastText has not written it", name[MODEL]);
    *n_other = n;
    return name[MODEL];
}
