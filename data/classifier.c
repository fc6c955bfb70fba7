/* classifier.c: fastText, the program, as a child process: trained on pages that are code-related
 * and pages of any kind, asked how much a page is like the first. See recall.h.
 *
 * What to know first: the paper (arXiv 2411.04905, section 2.1.2) trains fastText on text that a
 * BPE tokenizer has cut into tokens; with --tokenizer words are the numbers of our tokens,
 * without they are runs of letters and digits, each other visible ASCII character and each Chinese
 * or Japanese one. fastText gives the same model every time with one thread only. It answers each
 * line of text with a line of labels and probabilities; a process is asked by one thread. It is no
 * input but a part of the machine: where it fails, the run does. Test: tests/test_recall.py. */

#include "../opencoder.h" /* Model, Tokenizer */
#include "../unicode.h"   /* utf8_decode */
#include "recall.h"
#include <poll.h>       /* poll */
#include <sys/socket.h> /* socketpair, send */
#include <sys/wait.h>   /* waitpid */
#ifdef __linux__
#include <sys/prctl.h> /* PR_SET_PDEATHSIG */
#endif

static struct {
    const char *program, *tokenizer;
    int64_t dim, epochs, ngrams, bucket, min_count, threads, words, seed;
    double rate;
} opt = { "fasttext", NULL, 100, 5, 2, 200000, 1, 1, 2000, 0, 0.5 };

const Option classifier_options[] = {
    { 0, "fasttext", NULL, "PROGRAM", OPT_TEXT, &opt.program, 0, 0, "the classifier [fasttext]" },
    { 0, "tokenizer", NULL, "MODEL", OPT_TEXT, &opt.tokenizer, 0, 0,
      "cut text into the tokens of this GGUF, as in the paper [words]" },
    { 0, "max-words", NULL, "N", OPT_INT, &opt.words, 1, 1 << 20, "read of a page" },
    { 0, "epochs", NULL, "N", OPT_INT, &opt.epochs, 1, 10000, "fastText's -epoch" },
    { 0, "lr", NULL, "X", OPT_FLOAT, &opt.rate, 1e-6, 100, "fastText's -lr" },
    { 0, "dim", NULL, "N", OPT_INT, &opt.dim, 1, 4096, "fastText's -dim" },
    { 0, "word-ngrams", NULL, "N", OPT_INT, &opt.ngrams, 1, 8, "fastText's -wordNgrams" },
    { 0, "bucket", NULL, "N", OPT_INT, &opt.bucket, 1, 1 << 30, "fastText's -bucket" },
    { 0, "min-count", NULL, "N", OPT_INT, &opt.min_count, 1, 1e9, "fastText's -minCount" },
    { 0, "train-threads", NULL, "N", OPT_INT, &opt.threads, 1, 1024,
      "fastText's -thread; above 1 each run gives another model" },
    { 0, "train-seed", NULL, "N", OPT_INT, &opt.seed, 0, 1 << 30, "fastText's -seed" },
    { 0, NULL, NULL, NULL, 0, NULL, 0, 0, NULL },
};

/* ------------------------------------------------------------------------------------------------
 * 1. Words */

enum { LONGEST_WORD = 40, NO_BREAK = 0xA0, IDEOGRAPHS = 0x2E80, WIDE_SPACE = 0x3000 };

static Model model;
static Tokenizer *tokenizer;

/* A run of letters, digits, _ and what lies above ASCII; one of any other character. */
static const char *word_end(const char *p, const char *end, bool *visible) {
    uint32_t c = (uint8_t)*p;
    size_t len = c < 0x80 ? 1 : utf8_decode(p, (size_t)(end - p), &c);
    bool letter = c >= 0x80 ? c > NO_BREAK && c < IDEOGRAPHS : isalnum((int)c) || c == '_';
    *visible = c > ' ' && (c < 127 || c > NO_BREAK) && c != WIDE_SPACE;
    if (!letter) return p + len;
    for (p += len; p < end; p += len) {
        c = (uint8_t)*p;
        len = c < 0x80 ? 1 : utf8_decode(p, (size_t)(end - p), &c);
        if (c >= 0x80 ? c <= NO_BREAK || c >= IDEOGRAPHS : !isalnum((int)c) && c != '_') break;
    }
    return p;
}

static void split_words(Str text, Buf *line) {
    static const char label[] = "__label__";
    const char *p = text.s, *end = p + text.n, *stop;
    for (int64_t n = 0; p < end && n < opt.words; p = stop) {
        bool visible;
        stop = word_end(p, end, &visible);
        if (!visible) continue;
        size_t len = (size_t)(stop - p), cut = len;
        if (len > LONGEST_WORD) /* not within a character */
            for (cut = LONGEST_WORD; cut && (p[cut] & 0xC0) == 0x80;) cut--;
        if (n++) buf_add(line, " ", 1);
        if (cut >= 9 && !strncasecmp(p, label, 9)) buf_add(line, ".", 1); /* no label of ours */
        buf_add(line, p, cut);
        for (char *c = line->data + line->n - cut; c < line->data + line->n; c++)
            *c = (char)(*c >= 'A' && *c <= 'Z' ? *c | 32 : *c);
    }
}

void classifier_words(Str text, Buf *line) {
    if (!tokenizer) {
        split_words(text, line);
        return;
    }
    Ids ids = { NULL, 0, 0 };
    size_t most = (size_t)opt.words * 16, n = text.n < most ? text.n : most;
    while (n && n < text.n && (text.s[n] & 0xC0) == 0x80) n--;
    tokenizer_encode(tokenizer, text.s, n, false, &ids);
    for (size_t i = 0; i < ids.n && i < (size_t)opt.words; i++)
        buf_printf(line, i ? " %d" : "%d", ids.id[i]);
    free(ids.id);
}

/* ------------------------------------------------------------------------------------------------
 * 2. The program */

static bool is_program(const char *name, size_t n, const char *dir, size_t dir_n) {
    Buf path = { NULL, 0, 0 };
    struct stat st;
    buf_add(&path, dir, dir_n);
    if (dir_n) buf_add(&path, "/", 1);
    buf_add(&path, name, n);
    bool found = !stat(path.data, &st) && S_ISREG(st.st_mode) && !access(path.data, X_OK);
    buf_free(&path);
    return found;
}

const char *classifier_tokenizer(void) { return opt.tokenizer; }

void classifier_check(void) {
    const char *path = getenv("PATH"), *stop;
    size_t n = strlen(opt.program);
    bool found = strchr(opt.program, '/') && is_program(opt.program, n, "", 0);
    for (const char *p = path ? path : ""; *p && !found && !strchr(opt.program, '/'); p = stop) {
        stop = p + strcspn(p, ":");
        found = is_program(opt.program, n, stop > p ? p : ".", stop > p ? (size_t)(stop - p) : 1);
        stop += *stop == ':';
    }
    if (!found)
        die("%s: no such program, expected fastText; the Debian package fasttext has it",
            opt.program);
    if (!opt.tokenizer) return;
    Error e;
    model_open_vocab(&model, opt.tokenizer);
    tokenizer = tokenizer_new(&model.vocab, &e);
    if (!tokenizer) die("%s: %s", opt.tokenizer, e.text);
}

void classifier_done(void) {
    if (!tokenizer) return;
    tokenizer_free(tokenizer);
    model_close(&model);
    tokenizer = NULL;
}

/* Starts the program with these for stdin and stdout, and its messages in the file `log`. Where we
 * are killed it ends, too: one that trains does not read from us, and without its input, which the
 * next run removes, it never would. Between fork and exec there is only what threads allow. */
static pid_t start(char *const *argv, int in, int out, const char *log) {
    pid_t parent = getpid(), pid = fork();
    if (pid < 0) die("%s: cannot start: %s", argv[0], strerror(errno));
    if (pid) return pid;
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
#endif
    int said = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (said >= 0 && dup2(in, 0) >= 0 && dup2(out, 1) >= 0 && dup2(said, 2) >= 0)
        execvp(argv[0], argv);
    _exit(127);
}

static int status_of(pid_t pid) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    return status;
}

static volatile pid_t training;

void classifier_kill(void) {
    if (training > 0) kill(training, SIGKILL);
}

/* The last line of what the program has said, for a message. */
static void last_line(const char *log, char text[200]) {
    Buf b = { NULL, 0, 0 };
    read_file(log, &b);
    while (b.n && isspace((uint8_t)b.data[b.n - 1])) b.data[--b.n] = 0;
    size_t from = b.n;
    while (from && !strchr("\r\n", b.data[from - 1])) from--;
    snprintf(text, 200, "%s", b.data + from);
    buf_free(&b);
}

void classifier_train(const char *input, const char *prefix, const char *log) {
    char number[8][32], rate[32], said[200];
    const int64_t value[] = { opt.dim,       opt.epochs,  opt.ngrams, opt.bucket,
                              opt.min_count, opt.threads, opt.seed };
    for (int i = 0; i < 7; i++) snprintf(number[i], 32, "%lld", (long long)value[i]);
    snprintf(rate, sizeof rate, "%g", opt.rate);
    char *argv[] = { (char *)(uintptr_t)opt.program,
                     "supervised",
                     "-input",
                     (char *)(uintptr_t)input,
                     "-output",
                     (char *)(uintptr_t)prefix,
                     "-dim",
                     number[0],
                     "-epoch",
                     number[1],
                     "-wordNgrams",
                     number[2],
                     "-bucket",
                     number[3],
                     "-minCount",
                     number[4],
                     "-thread",
                     number[5],
                     "-seed",
                     number[6],
                     "-lr",
                     rate,
                     "-loss",
                     "softmax",
                     NULL };
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0) die("/dev/null: cannot open: %s", strerror(errno));
    training = start(argv, null, null, log);
    int status = status_of(training);
    training = 0;
    close(null);
    if (!status) return;
    last_line(log, said);
    if (WIFSIGNALED(status))
        die("%s supervised: ended by signal %d: %s", opt.program, WTERMSIG(status), said);
    die("%s supervised: exit code %d, expected 0: %s", opt.program, WEXITSTATUS(status), said);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Asking */

enum { PATIENCE = 120000 }; /* milliseconds for a page; a large model takes time to load */

struct Classifier {
    pid_t pid;
    int socket;
    Buf line;
};

/* A socket, not a pipe: writing to one whose reader has died is an error, without a signal. */
Classifier *classifier_open(const char *model_path) {
    Classifier *c = (Classifier *)xcalloc(1, sizeof *c, "classifier");
    int pair[2];
    char *argv[] = { (char *)(uintptr_t)opt.program,
                     "predict-prob",
                     (char *)(uintptr_t)model_path,
                     "-",
                     "2",
                     NULL };
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        die("%s: cannot make a socket: %s", opt.program, strerror(errno));
    c->socket = pair[0];
    c->pid = start(argv, pair[1], pair[1], "/dev/null");
    close(pair[1]);
    return c;
}

static bool ready(int fd, short event) {
    struct pollfd p = { fd, event, 0 };
    int n;
    do n = poll(&p, 1, PATIENCE);
    while (n < 0 && errno == EINTR);
    return n > 0;
}

/* Sends the line and reads the answer into c->line; false where there is none. */
static bool ask(Classifier *c, Str line) {
    const char *s = line.s;
    for (size_t n = line.n; n;) {
        ssize_t sent = send(c->socket, s, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        bool full = sent < 0 && (errno == EAGAIN || errno == EINTR);
        if (sent < 0 && (!full || !ready(c->socket, POLLOUT))) return false;
        if (sent > 0) s += sent, n -= (size_t)sent;
    }
    c->line.n = 0;
    while (!c->line.n || c->line.data[c->line.n - 1] != '\n') {
        char part[512];
        if (c->line.n > 4096 || !ready(c->socket, POLLIN)) return false;
        ssize_t got = recv(c->socket, part, sizeof part, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        buf_add(&c->line, part, (size_t)got);
    }
    return true;
}

double classifier_score(Classifier *c, Str line) {
    static const char code[] = "__label__code ", other[] = "__label__other ";
    if (!ask(c, line))
        die("%s predict-prob: it has ended or does not answer, expected a line for each page",
            opt.program);
    const char *yes = strstr(c->line.data, code), *no = strstr(c->line.data, other);
    const char *number = yes ? yes + sizeof code - 1 : no ? no + sizeof other - 1 : c->line.data;
    char *stop;
    double p = strtod(number, &stop);
    if (!yes) p = 1 - p;
    if (stop == number || (!yes && !no) || !isfinite(p))
        die("%s predict-prob: '%.60s', expected __label__code and a probability", opt.program,
            c->line.data);
    return p < 0 ? 0 : p > 1 ? 1 : p; /* fastText's go up to 1.00001 */
}

void classifier_close(Classifier *c) {
    if (!c) return;
    close(c->socket);
    kill(c->pid, SIGKILL); /* all is answered */
    status_of(c->pid);
    buf_free(&c->line);
    free(c);
}
