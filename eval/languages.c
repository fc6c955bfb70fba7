/* languages.c: how programs of each language are built and run, a line of a table for each.
 *
 * What to know first: a line is tried out once, with a program that does nothing, in the same box
 * as the programs that come; what does not work then (no compiler, an old one, a box it cannot work
 * in) is missing here, and tasks in that language are left out of the score, not failed. Several
 * lines may name the same language: the first that works is taken.
 * Python's tests are not run with the program but beside it, by python_check; its line is for
 * programs that read stdin and write stdout. Test: tests/test_evaluate.py. */
#include "eval.h"
#include <glob.h>     /* glob: binds */
#include <limits.h>   /* PATH_MAX */
#include <sys/wait.h> /* pclose */

#define NATIVE "/usr/bin /usr/include /usr/local/include"

static const Language languages[] = {
    { "python", "py python3", "main.py", NULL, "python3 -I -S main.py", SANDBOX_STRICT, "",
      "print(1)\n" },
    { "c", "", "main.c", "cc -std=gnu17 -O1 -w -o main main.c -lm", "./main", SANDBOX_STRICT,
      NATIVE, "#include <stdio.h>\nint main(void) { return 0; }\n" },
    { "cpp", "c++ cxx", "main.cpp", "c++ -std=gnu++20 -O1 -w -o main main.cpp", "./main",
      SANDBOX_STRICT, NATIVE, "#include <cstdio>\nint main() { return 0; }\n" },
    { "javascript", "js node", "main.js", NULL, "node main.js", SANDBOX_BUILD,
      "/etc/ssl/openssl.cnf", "require('assert')(true)\n" },
    { "java", "", "{main}.java",
      "javac -J-XX:TieredStopAtLevel=1 -J-XX:+UseSerialGC -nowarn {main}.java",
      "java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xss64m -ea -cp . {main}", SANDBOX_BUILD,
      "/etc/java-*", "class Main { public static void main(String[] a) {} }\n" },
    { "go", "golang", "main.go", "go build -o main main.go", "./main", SANDBOX_BUILD,
      "/usr/bin /usr/share/go*", "package main\nfunc main() {}\n" },
    { "go_test", "go_test.go", "main_test.go", "go test -c -o main main_test.go", "./main",
      SANDBOX_BUILD, "/usr/bin /usr/share/go*",
      "package main\nimport \"testing\"\nfunc TestNothing(t *testing.T) {}\n" },
    { "rust", "rs", "main.rs", "rustc --edition 2021 -A warnings -o main main.rs", "./main",
      SANDBOX_STRICT, NATIVE, "fn main() {}\n" },
    { "shell", "sh bash", "main.sh", NULL, "bash main.sh", SANDBOX_SHELL, "", "true\n" },
    { "php", "", "main.php", NULL, "php main.php", SANDBOX_BUILD, "/etc/php /usr/share/php",
      "<?php\n" },
    { "csharp", "cs c#", "main.cs",
      "mono /usr/lib/mono/4.5/mcs.exe -d:DEBUG -r:System.Numerics.dll -out:main.exe main.cs",
      "mono --debug main.exe", SANDBOX_BUILD, "/usr/bin /etc/mono",
      "class Hello { static void Main() {} }\n" },
    { "typescript", "ts", "main.ts", "tsc --target es2020 --module commonjs --lib es2020 main.ts",
      "node main.js", SANDBOX_BUILD, "/usr/bin /usr/share/nodejs /etc/ssl/openssl.cnf",
      "const one: number = 1;\n" },
    { "typescript", "", "main.ts", NULL, "node --experimental-strip-types --no-warnings main.ts",
      SANDBOX_BUILD, "/etc/ssl/openssl.cnf", "const one: number = 1;\n" },
};
enum { N_LANGUAGES = sizeof languages / sizeof *languages };

/* What languages_try found out about a line. */
typedef struct {
    bool works;
    char why[300];
} Tried;
static Tried tried[N_LANGUAGES];

static bool is_word_of(const char *list, Str word) {
    for (const char *p = list; *p; p += strspn(p, " ")) {
        size_t n = strcspn(p, " ");
        if (n == word.n && !memcmp(p, word.s, n)) return true;
        p += n;
    }
    return false;
}

const Language *language_find(Str name) {
    for (int i = 0; i < N_LANGUAGES; i++)
        if (str_is(name, languages[i].name) || is_word_of(languages[i].aliases, name))
            return &languages[i];
    return NULL;
}

/* ------------------------------------------------------------------------------------------------
 * Programs of the host */

/* The first line of what a command of the host prints, "" where it fails. Only for commands that
 * stand in this file. */
static void ask(const char *command, char *line, int size) {
    FILE *f = popen(command, "r");
    line[0] = 0;
    if (!f) return;
    if (!fgets(line, size, f)) line[0] = 0;
    while (fgetc(f) != EOF) {}
    if (pclose(f)) line[0] = 0;
    line[strcspn(line, "\n")] = 0;
}

/* The path of a program, out of PATH, into path[PATH_MAX]; false: it is not there. Some names stand
 * for a script or a program that only looks for the real one, by variables that a box lacks: those
 * are asked where that is. */
static bool find_program(const char *name, char *path) {
    static const char *const asked[][3] = {
        { "rustc", "rustc --print sysroot 2>/dev/null", "/bin/rustc" },
        { "go", "go env GOROOT 2>/dev/null", "/bin/go" },
        { "node", "node -p process.execPath 2>/dev/null", "" },
    };
    const char *dirs = getenv("PATH");
    char line[PATH_MAX] = "", entry[2 * PATH_MAX];
    if (!strcmp(name, "python3") && sandbox_python())
        return snprintf(path, PATH_MAX, "%s", sandbox_python()) < PATH_MAX;
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
        if (!strcmp(name, asked[i][0])) {
            ask(asked[i][1], line, sizeof line - 32);
            if (!line[0]) return false;
            return snprintf(path, PATH_MAX, "%s%s", line, asked[i][2]) < PATH_MAX &&
                   !access(path, X_OK);
        }
    for (const char *d = dirs ? dirs : ""; *d; d += *d == ':') {
        size_t n = strcspn(d, ":");
        snprintf(entry, sizeof entry, "%.*s/%s", (int)(n < PATH_MAX ? n : 0), d, name);
        d += n;
        bool found = *entry == '/' && !access(entry, X_OK) && realpath(entry, path);
        if (found && !strstr(path, "/ccache")) return true; /* that is called cc too */
    }
    return false;
}

/* A command ready for a box: the words, and the paths that it needs. */
typedef struct {
    const char *word[32];
    const char *bind[64];
    int n_binds;
    char *text[32];
    char program[PATH_MAX], prefix[PATH_MAX];
    glob_t found;
} Command;

static void command_free(Command *c) {
    for (int i = 0; i < 32; i++) free(c->text[i]);
    globfree(&c->found);
}

/* `binds` of the table as paths that are there. */
static void expand_binds(Command *c, const char *binds) {
    int flags = 0;
    for (const char *p = binds; *p; p += strspn(p, " ")) {
        char pattern[PATH_MAX];
        size_t n = strcspn(p, " ");
        snprintf(pattern, sizeof pattern, "%.*s", (int)n, p);
        if (glob(pattern, flags, NULL, &c->found) == GLOB_NOSPACE) /* no match, no bind */
            die("%s: out of memory", pattern);
        flags = GLOB_APPEND;
        p += n;
    }
    for (size_t i = 0; i < c->found.gl_pathc && c->n_binds < 60; i++)
        c->bind[c->n_binds++] = c->found.gl_pathv[i];
}

/* `text` with every {main} replaced; to be freed. */
static char *with_main(const char *text, size_t n, const char *main_name) {
    Buf b = { 0 };
    buf_add(&b, "", 0);
    for (const char *end = text + n; text < end;) {
        bool here = (size_t)(end - text) >= 6 && !memcmp(text, "{main}", 6);
        buf_add(&b, here ? main_name : text, here ? strlen(main_name) : 1);
        text += here ? 6 : 1;
    }
    return b.data;
}

/* Fills c from a line's command. False: its program is not there. */
static bool command_make(Command *c, const Language *l, const char *command,
                         const char *main_name) {
    int n = 0;
    memset(c, 0, sizeof *c);
    for (const char *p = command; *p && n < 31; p += strspn(p, " ")) {
        size_t len = strcspn(p, " ");
        c->text[n] = with_main(p, len, main_name);
        c->word[n] = c->text[n];
        n++;
        p += len;
    }
    expand_binds(c, l->binds);
    if (!strncmp(c->word[0], "./", 2)) return true;
    if (!find_program(c->word[0], c->program)) return false;
    c->word[0] = c->program;
    snprintf(c->prefix, sizeof c->prefix, "%s", c->program);
    for (int up = 0; up < 2; up++) { /* /opt/x of /opt/x/bin/program */
        char *slash = strrchr(c->prefix, '/');
        if (slash) *slash = 0;
    }
    bool python = sandbox_python() && !strcmp(c->program, sandbox_python());
    if (!c->prefix[0] || !strcmp(c->prefix, "/usr") || python) return true;
    c->bind[c->n_binds++] = c->prefix;
    return true;
}

/* ------------------------------------------------------------------------------------------------
 * Building and running */

/* Runs one command over files; r is to be freed. */
static void run_command(const Language *l, const char *command, const char *main_name,
                        SandboxJob job, SandboxResult *r) {
    static const char *const env[] = { "GOCACHE=/box/.cache",
                                       "GOPATH=/box/.go",
                                       "GOFLAGS=-p=1",
                                       "GO111MODULE=off",
                                       "CGO_ENABLED=0",
                                       "MONO_TRACE_LISTENER=Console.Error",
                                       NULL };
    Command c;
    memset(r, 0, sizeof *r);
    if (command_make(&c, l, command, main_name)) {
        job.argv = c.word;
        job.binds = c.bind;
        job.env = env;
        sandbox_run(&job, r);
    } else {
        r->reason = RUN_FAILED;
        snprintf(r->message, sizeof r->message, "%s: not installed", c.word[0]);
    }
    command_free(&c);
}

enum { BUILD_SECONDS = 60 };

void language_run(const Language *l, const ProgramJob *p,
                  bool (*done)(void *arg, int i, bool built, const SandboxResult *r), void *arg) {
    char main_name[128] = "main", file[160];
    SandboxResult built = { 0 }, r;
    Buf text = { 0 };
    buf_add(&text, p->source.s, p->source.n);
    if (!strcmp(l->name, "java")) java_main(&text, main_name), java_add_tuples(&text);
    char *name = with_main(l->file, strlen(l->file), main_name);
    snprintf(file, sizeof file, "%s", name);
    free(name);
    SandboxFile source = { file, text.data, text.n, false };
    SandboxJob job = { .files = &source, .n_files = 1 };
    bool ok = true, binary = !strncmp(l->run, "./", 2);
    if (l->build) {
        job.profile = SANDBOX_BUILD;
        job.seconds = BUILD_SECONDS;
        job.memory = (uint64_t)2 << 30;
        job.file_size = (uint64_t)256 << 20;
        job.box_size = (uint64_t)512 << 20;
        job.collect = true;
        run_command(l, l->build, main_name, job, &built);
        ok = built.reason == RUN_EXIT && built.code == 0;
        if (!ok) done(arg, 0, false, &built);
        job = (SandboxJob){ .files = built.files, .n_files = built.n_files };
    }
    job.profile = l->profile;
    job.seconds = p->seconds;
    job.memory = p->memory;
    for (int i = 0; i < built.n_files && binary; i++)
        if (!strcmp(built.files[i].name, "main")) built.files[i].executable = true;
    for (int i = 0; ok && i < (p->n ? p->n : 1); i++) {
        if (p->n) job.input = p->input[i];
        run_command(l, l->run, main_name, job, &r);
        ok = done(arg, i, true, &r);
        sandbox_free(&r);
    }
    sandbox_free(&built);
    buf_free(&text);
}

/* ------------------------------------------------------------------------------------------------
 * What works here */

static bool hello_done(void *arg, int i, bool built, const SandboxResult *r) {
    Tried *t = arg;
    (void)i;
    t->works = built && r->reason == RUN_EXIT && r->code == 0;
    if (t->works) return true;
    size_t n = r->err.data ? strcspn(r->err.data, "\n") : 0;
    snprintf(t->why, sizeof t->why, "%.200s%s%.*s", r->message, n ? ": " : "",
             (int)(n < 80 ? n : 80), n ? r->err.data : "");
    return false;
}

void languages_try(const Completions *wanted) {
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < N_LANGUAGES; i++) {
        const Language *l = &languages[i];
        ProgramJob job = { .source = str_of(l->hello), .seconds = 20, .memory = (uint64_t)1 << 30 };
        bool needed = !wanted;
        for (size_t k = 0; wanted && k < wanted->n && !needed; k++)
            needed = !strcmp(wanted->c[k].task->language->name, l->name);
        if (needed) language_run(l, &job, hello_done, &tried[i]);
    }
}

const Language *language_here(const Language *l, const char **why) {
    *why = "";
    for (int i = 0; i < N_LANGUAGES; i++) {
        if (strcmp(languages[i].name, l->name)) continue;
        if (tried[i].works) return &languages[i];
        if (!**why) *why = tried[i].why;
    }
    return NULL;
}

void languages_print(void) {
    languages_try(NULL);
    for (int i = 0; i < N_LANGUAGES; i++) {
        const char *why;
        if (i && !strcmp(languages[i].name, languages[i - 1].name)) continue;
        const Language *l = language_here(&languages[i], &why);
        printf("%-12s %s\n", languages[i].name, l ? "yes" : why);
    }
}
