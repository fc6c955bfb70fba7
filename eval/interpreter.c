/* interpreter.c: finding Python itself. `python3` may be a shim, a shell script that chooses one of
 * several, which cannot run in a box; so it is asked, outside of any box and before there is
 * anything hostile, what it stands for and where its library is. Test: tests/test_sandbox.py. */

#include "python.h"
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

/* One path a line; the first is the interpreter, and one that begins with '=' holds numpy. */
static const char question[] =
    "import os, sys, sysconfig\n"
    "from importlib.util import find_spec\n"
    "lines = [os.path.realpath(sys.executable)]\n"
    "lines += [sysconfig.get_path(key) for key in ('stdlib', 'platstdlib')]\n"
    "for prefix in {sys.base_prefix, sys.base_exec_prefix} - {'/', '/usr', '/usr/local'}:\n"
    "    lines.append(os.path.join(prefix, 'lib'))\n"
    "found = find_spec('numpy')\n"
    "if found and found.origin:\n"
    "    lines.append('=' + os.path.dirname(os.path.dirname(found.origin)))\n"
    "print(*lines, sep='\\n')\n";

/* What the program prints in at most 10 s; NULL if it fails. To be freed. */
static char *ask_program(const char *name) {
    const char *argv[] = { name, "-I", "-c", question, NULL };
    posix_spawn_file_actions_t actions;
    Buf b = { 0 };
    char block[4096];
    int from, to, status = 1;
    pid_t pid;
    if (!make_pipe(&from, &to)) return NULL;
    if (posix_spawn_file_actions_init(&actions) ||
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) ||
        posix_spawn_file_actions_adddup2(&actions, to, 1) ||
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0))
        die("%s: cannot be started: out of memory", name);
    bool ok = !posix_spawnp(&pid, name, &actions, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(to);
    double deadline = now_seconds() + 10;
    for (ssize_t n = 1; ok && n > 0 && b.n < 1 << 16;) {
        struct pollfd p = { from, POLLIN, 0 };
        double left = deadline - now_seconds();
        n = left > 0 && poll(&p, 1, (int)(left * 1000) + 1) > 0 ? read(from, block, sizeof block)
                                                                : -1;
        if (n > 0) buf_add(&b, block, (size_t)n);
        if (n < 0) kill(pid, SIGKILL);
    }
    close(from);
    while (ok && waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    if (ok && !status && b.n) return b.data;
    buf_free(&b);
    return NULL;
}

/* May every user read and enter what is on the way to path, and path itself? */
static bool anyone_may(const char *path) {
    char prefix[PATH_MAX];
    struct stat st;
    for (size_t n = 1; path[n - 1] && n < sizeof prefix; n++) {
        if (path[n] && path[n] != '/') continue;
        memcpy(prefix, path, n);
        prefix[n] = 0;
        if (stat(prefix, &st) || !(st.st_mode & 1)) return false;
    }
    return true;
}

static void try_program(const char *name, PythonHome *home) {
    char *text = ask_program(name), *rest = NULL;
    int n = 0;
    for (char *line = text ? strtok_r(text, "\n", &rest) : NULL; line;
         line = strtok_r(NULL, "\n", &rest)) {
        char **to = line[0] == '=' && !home->packages    ? &home->packages
                    : line[0] == '/' && n < HOME_MAX - 1 ? &home->path[n++]
                                                         : NULL;
        if (to && !(*to = strdup(line + (line[0] == '=')))) die("%s: out of memory", name);
    }
    free(text);
}

void python_find(const char *name, bool for_anyone, PythonHome *home) {
    const char *place[] = { name ? name : "python3", "/usr/bin/python3", "/usr/local/bin/python3" };
    memset(home, 0, sizeof *home);
    for (int i = 0; i < (name ? 1 : 3) && !home->path[0]; i++) {
        try_program(place[i], home);
        bool ok = true;
        for (int k = 0; for_anyone && home->path[k]; k++) ok = ok && anyone_may(home->path[k]);
        if (!ok) python_forget(home);
    }
}

void python_forget(PythonHome *home) {
    for (int i = 0; i < HOME_MAX; i++) free(home->path[i]);
    free(home->packages);
    memset(home, 0, sizeof *home);
}

void python_bind(const PythonHome *home, BoxPlan *p) {
    for (int i = 0; i < HOME_MAX && home->path[i]; i++) plan_bind(p, home->path[i], i == 0);
    if (home->packages) plan_bind(p, home->packages, false);
}
