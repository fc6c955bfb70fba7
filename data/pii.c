/* pii.c: finds e-mail and IP addresses, keys, passwords and names of authors. See pii.h.
 *
 * What to know first: the paper replaces them by placeholders (arXiv 2411.04905, section 2.1.1)
 * with regular expressions that were not published; these rules are our own. One pass over the
 * text: a word, a digit, a colon or an @ starts a scanner, which returns the bytes to replace. Each
 * says what it leaves alone: example.com, private networks, version numbers, password = input().
 * tests/data/pii.jsonl has hits and near misses; tests/test_transform.py prints precision and
 * recall on it. */

#include "pii.h"
#include <arpa/inet.h> /* inet_pton */

#define PII_PLACEHOLDER(number, placeholder, what) placeholder,
#define PII_WHAT(number, placeholder, what)        what,
const char *const pii_placeholder[N_PII] = { PII_KINDS(PII_PLACEHOLDER) };
const char *const pii_what[N_PII] = { PII_KINDS(PII_WHAT) };

typedef struct {
    const char *s, *end;   /* the whole text */
    const char *from, *to; /* a hit: what to replace */
    const char *no_jwt;    /* before it begins no JSON Web Token: too many dots */
    int kind;
} Hit;

static bool is_name_char(char c) { return isalnum((uint8_t)c) || c == '_'; }

static bool hit(Hit *h, int kind, const char *from, const char *to) {
    h->kind = kind;
    h->from = from;
    h->to = to;
    return true;
}

static bool begins(const char *p, const char *end, const char *word) { /* in any case */
    size_t n = strlen(word);
    return (size_t)(end - p) >= n && !strncasecmp(p, word, n);
}

static bool begins_with_any(const char *p, const char *end, const char *const *words) {
    for (; *words; words++) /* | 32: equal where the letters are, whatever their case */
        if ((*p | 32) == (**words | 32) && begins(p, end, *words)) return true;
    return false;
}

/* By the first letter of words, in any case, up to three letters that follow it. Most places of a
 * text are none where one of the words begins, and this says so at once. */
typedef char Pairs[128][4];
static bool may_begin(const Pairs pairs, const char *p, const char *end) {
    const char *second = pairs[(*p | 32) & 127];
    int c = p + 1 < end ? p[1] | 32 : -1;
    return c == second[0] || c == second[1] || c == second[2];
}

static bool ends_with(const char *p, const char *end, const char *word) {
    size_t n = strlen(word);
    return (size_t)(end - p) >= n && !strncasecmp(end - n, word, n);
}

/* ------------------------------------------------------------------------------------------------
 * 1. E-mail: local@domain.tld, at the @. Left alone: git@host (an account of many), example.com and
 * its like (RFC 2606), decorators, versions (pkg@1.2.3) and files (icon@2x.png). */

static bool scan_email(Hit *h, const char *at) {
    static const char *const files[] = {
        ".png", ".jpg",  ".jpeg", ".gif",  ".svg", ".webp", ".js",
        ".css", ".json", ".ts",   ".html", ".py",  ".tgz",  ".git"
    };
    static const char *const reserved[] = {
        "example.com",       "example.org", "example.net", ".example",   ".test",
        ".invalid",          ".local",      "localhost",   "domain.com", "yourdomain.com",
        "noreply.github.com"
    };
    const char *from = at, *to = at + 1, *dot = NULL;
    while (from > h->s && at - from < 64 && (is_name_char(from[-1]) || strchr(".+-%", from[-1])))
        from--;
    while (from < at && !isalnum((uint8_t)*from)) from++;
    for (; to < h->end && (isalnum((uint8_t)*to) || *to == '-' || *to == '.'); to++)
        if (*to == '.') dot = to;
    while (dot && dot > at && dot == to - 1) /* a full stop behind it */
        for (to--, dot = to - 1; dot > at && *dot != '.';) dot--;
    if (from == at || !dot || dot <= at + 1 || to - dot < 3 || to - dot > 14) return false;
    for (const char *p = dot + 1; p < to; p++)
        if (!isalpha((uint8_t)*p)) return false;
    if (at - from == 3 && begins(from, at, "git")) return false;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (ends_with(at, to, files[i])) return false;
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        if (ends_with(at, to, reserved[i])) return false;
    if (from > h->s && (from[-1] == '/' || from[-1] == ':') && to < h->end &&
        (*to == ':' || *to == '/'))
        return false; /* user@host of an address: not mail */
    return hit(h, PII_EMAIL, from, to);
}

/* ------------------------------------------------------------------------------------------------
 * 2. IP addresses. Left alone: networks that are private, local or for documentation (RFC 1918,
 * 5737, 3849), masks, public name servers that everybody writes down, and versions. */

static bool version_before(const char *p, const char *s) {
    static const char *const words[] = { "version", "ver",     "release", "revision", "v",
                                         "==",      ">=",      "<=",      "~=",       "firmware",
                                         "build",   "section", "chapter" };
    const char *end = p;
    while (end > s && p - end < 4 && (strchr(" \t:=\"'(", end[-1]))) end--;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t n = strlen(words[i]);
        const char *last = words[i][0] < 'A' ? p : end; /* == belongs to what is skipped */
        if ((size_t)(last - s) < n || strncasecmp(last - n, words[i], n)) continue;
        if (words[i][0] < 'A' || (size_t)(last - s) == n || !isalpha((uint8_t)last[-(long)n - 1]))
            return true;
    }
    return false;
}

static bool private_ip(const int *o) {
    static const int servers[][4] = { { 8, 8, 8, 8 }, { 8, 8, 4, 4 }, { 1, 1, 1, 1 },
                                      { 1, 0, 0, 1 }, { 9, 9, 9, 9 }, { 1, 2, 3, 4 } };
    for (size_t i = 0; i < sizeof servers / sizeof *servers; i++)
        if (!memcmp(o, servers[i], sizeof servers[i])) return true;
    return o[0] == 0 || o[0] == 10 || o[0] == 127 || o[0] >= 224 || (o[0] == 192 && o[1] == 168) ||
           (o[0] == 172 && o[1] >= 16 && o[1] < 32) || (o[0] == 169 && o[1] == 254) ||
           (o[0] == 192 && o[1] == 0 && o[2] == 2) || (o[0] == 198 && o[1] == 51 && o[2] == 100) ||
           (o[0] == 203 && o[1] == 0 && o[2] == 113) || (o[1] == 0 && o[2] == 0 && o[3] == 0);
}

static bool scan_ipv4(Hit *h, const char *p) { /* p at a digit with no word before it */
    int octet[4];
    const char *q = p;
    if (p > h->s && (p[-1] == '.' || p[-1] == '-')) return false;
    for (int i = 0; i < 4; i++) {
        int digits = 0;
        for (octet[i] = 0; q < h->end && isdigit((uint8_t)*q) && digits < 4; q++, digits++)
            octet[i] = octet[i] * 10 + (*q - '0');
        if (!digits || digits > 3 || octet[i] > 255 || (digits > 1 && q[-digits] == '0'))
            return false;
        if (i < 3 && (q >= h->end || *q++ != '.')) return false;
    }
    if (q < h->end && (is_name_char(*q) || *q == '-')) return false;
    if (q + 1 < h->end && *q == '.' && is_name_char(q[1])) return false; /* 1.2.3.4.5 */
    if (private_ip(octet) || version_before(p, h->s)) return false;
    return hit(h, PII_IP, p, q);
}

/* p at a hex digit or a colon with neither before it. */
static bool scan_ipv6(Hit *h, const char *p) {
    char text[INET6_ADDRSTRLEN + 1];
    struct in6_addr a;
    const char *q = p;
    int colons = 0, digits = 0;
    while (q < h->end && q - p < INET6_ADDRSTRLEN && (isxdigit((uint8_t)*q) || *q == ':')) {
        colons += *q == ':';
        digits += isdigit((uint8_t)*q) != 0;
        q++;
    }
    while (q > p && q[-1] == ':' && !(q - p > 1 && q[-2] == ':')) q--, colons--;
    if (colons < 3 || digits < 3 || q - p < 7 || (q < h->end && (is_name_char(*q) || *q == '.')))
        return false; /* a::b, std::abc, 12:30:45 */
    memcpy(text, p, (size_t)(q - p));
    text[q - p] = 0;
    if (inet_pton(AF_INET6, text, &a) != 1) return false;
    const uint8_t *b = a.s6_addr;
    bool local = (b[0] == 0xFE && (b[1] & 0xC0) == 0x80) || (b[0] & 0xFE) == 0xFC || b[0] == 0xFF ||
                 (b[0] == 0x20 && b[1] == 1 && b[2] == 0x0D && b[3] == 0xB8) || !(b[0] | b[1]);
    return !local && hit(h, PII_IP, p, q);
}

/* ------------------------------------------------------------------------------------------------
 * 3. Keys by their form: the prefixes that services give them, and private keys in PEM. */

static bool scan_token(Hit *h, const char *p) {
    static const struct {
        const char *prefix;
        int least, most; /* characters behind it */
    } forms[] = {
        { "AKIA", 16, 16 },   { "ASIA", 16, 16 },        { "ghp_", 36, 36 },
        { "gho_", 36, 36 },   { "ghu_", 36, 36 },        { "ghs_", 36, 36 },
        { "ghr_", 36, 76 },   { "github_pat_", 50, 90 }, { "glpat-", 20, 20 },
        { "xoxb-", 20, 80 },  { "xoxp-", 20, 90 },       { "xoxa-", 20, 80 },
        { "AIza", 35, 35 },   { "sk_live_", 24, 99 },    { "rk_live_", 24, 99 },
        { "sk-", 32, 99 },    { "SG.", 60, 70 },         { "npm_", 36, 36 },
        { "hf_", 30, 40 },    { "pypi-", 50, 220 },      { "dop_v1_", 64, 64 },
        { "ya29.", 30, 220 }, { "eyJ", 40, 2000 },
    };
    static const Pairs pairs = {
        ['a'] = "ksi", ['d'] = "o", ['e'] = "y",  ['g'] = "hil", ['h'] = "f", ['n'] = "p",
        ['p'] = "y",   ['r'] = "k", ['s'] = "kg", ['x'] = "o",   ['y'] = "a"
    };
    if (!may_begin(pairs, p, h->end)) return false;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (*p != *forms[i].prefix) continue;
        size_t n = strlen(forms[i].prefix);
        if ((size_t)(h->end - p) < n || memcmp(p, forms[i].prefix, n)) continue;
        if (*p == 'e' && p < h->no_jwt) continue;
        const char *q = p + n, *stop = q + forms[i].most;
        int dots = 0, digits = 0;
        while (q < h->end && q <= stop && (is_name_char(*q) || *q == '-' || *q == '.')) {
            dots += *q == '.';
            digits += isdigit((uint8_t)*q) != 0;
            q++;
        }
        while (q > p && (q[-1] == '.' || q[-1] == '-')) q--;
        long len = q - p - (long)n;
        if (*p == 'e' && dots > 2) h->no_jwt = q;
        if (*p == 'e' && dots != 2) continue; /* a JSON Web Token: three parts */
        if (len >= forms[i].least && len <= forms[i].most && digits) return hit(h, PII_KEY, p, q);
    }
    return false;
}

static bool scan_pem(Hit *h, const char *p) { /* -----BEGIN ... PRIVATE KEY----- to its END */
    static const char end_mark[] = "-----END ";
    if (!begins(p, h->end, "-----BEGIN ")) return false;
    size_t most = (size_t)(h->end - p) < 1024 ? (size_t)(h->end - p) : 1024;
    const char *line = (const char *)memchr(p, '\n', most); /* nothing else is on that line */
    if (!line || !memmem(p, (size_t)(line - p), "PRIVATE KEY-----", 16)) return false;
    size_t n = (size_t)(h->end - line) < 16384 ? (size_t)(h->end - line) : 16384;
    const char *stop = (const char *)memmem(line, n, end_mark, sizeof end_mark - 1);
    return stop && stop - line > 64 && hit(h, PII_KEY, line + 1, stop);
}

/* ------------------------------------------------------------------------------------------------
 * 4. Secrets by the name they are assigned to: name = "value", "name": "value", name=>'value'. */

static double entropy(const char *p, const char *end) { /* bits a character */
    int count[256] = { 0 };
    double n = (double)(end - p), bits = 0;
    for (const char *q = p; q < end; q++) count[(uint8_t)*q]++;
    for (int c = 0; c < 256; c++)
        if (count[c]) bits -= count[c] / n * __builtin_log2(count[c] / n);
    return bits;
}

/* Values that stand for one: YOUR_KEY, <password>, ${TOKEN}, xxxx, changeme. */
static bool stands_for(const char *p, const char *end) {
    static const char *const inside[] = {
        "your",     "example", "changeme", "placeholder", "xxxx",   "****",   "....",
        "redacted", "dummy",   "password", "passwd",      "secret", "token",  "${",
        "{{",       "%s",      "<",        "env.",        "env[",   "getenv", "process.",
        "todo",     "replace", "insert",   NULL
    };
    for (const char *q = p; q < end; q++)
        if (begins_with_any(q, end, inside)) return true;
    return *p == '$' || *p == '%' || *p == '{' || *p == '/' || *p == '@';
}

/* What a name of this form holds: PII_PASSWORD, PII_KEY, or -1. */
static int secret_name(const char *p, const char *end) {
    static const char *const passwords[] = { "password", "passwd",   "passphrase",
                                             "pwd",      "passcode", NULL };
    static const char *const keys[] = {
        "api_key",        "apikey",      "api-key",     "secret",     "access_key",
        "accesskey",      "access-key",  "auth_token",  "authtoken",  "auth-token",
        "access_token",   "accesstoken", "private_key", "privatekey", "client_id_secret",
        "encryption_key", NULL
    };
    static const Pairs pairs = {
        ['a'] = "pcu", ['c'] = "l", ['e'] = "n", ['p'] = "awr", ['s'] = "e"
    };
    for (const char *q = p; q < end; q++) {
        if (!may_begin(pairs, q, end)) continue;
        if (begins_with_any(q, end, passwords)) return PII_PASSWORD;
        if (begins_with_any(q, end, keys)) return PII_KEY;
    }
    return -1;
}

/* p behind the name: ["']? \s* (=|:|=>|:=) \s* and a quoted value without spaces. */
static bool scan_assigned(Hit *h, const char *p, int kind) {
    const char *end = h->end;
    if (p < end && (*p == '"' || *p == '\'' || *p == ']')) p++;
    if (p < end && (p[-1] == '"' || p[-1] == '\'') && *p == ']') p++;
    while (p < end && (*p == ' ' || *p == '\t')) p++;
    if (p >= end || (*p != '=' && *p != ':')) return false;
    for (int i = 0; i < 2 && p < end && (*p == '=' || *p == ':' || *p == '>'); i++) p++;
    while (p < end && (*p == ' ' || *p == '\t')) p++;
    if (p >= end || (*p != '"' && *p != '\'' && *p != '`')) return false;
    const char *from = p + 1, *to = from;
    bool digit = false, letter = false, sign = false;
    for (; to < end && *to != *p && *to != '\n' && *to != ' ' && to - from <= 200; to++) {
        digit |= isdigit((uint8_t)*to) != 0;
        letter |= isalpha((uint8_t)*to) != 0;
        sign |= ispunct((uint8_t)*to) && !strchr("._-/:", *to);
    }
    if (to >= end || *to != *p || to == from || stands_for(from, to)) return false;
    if (kind == PII_PASSWORD && (to - from < 4 || to - from > 64 || !(digit || sign))) return false;
    if (kind == PII_KEY && (to - from < 16 || !digit || !letter || entropy(from, to) < 3))
        return false;
    return hit(h, kind, from, to);
}

/* p at ://user:password@ : the password. */
static bool scan_url_password(Hit *h, const char *p) {
    const char *colon = NULL, *q = p + 3;
    for (; q < h->end && q - p < 200 && *q != '@' && !isspace((uint8_t)*q); q++) {
        if (strchr("/\"'<>`,;(", *q)) return false;
        if (*q == ':' && !colon) colon = q;
    }
    if (q >= h->end || *q != '@' || !colon || colon == p + 3 || q - colon < 4) return false;
    if (stands_for(colon + 1, q) || *(colon + 1) == ':') return false;
    return hit(h, PII_PASSWORD, colon + 1, q);
}

/* ------------------------------------------------------------------------------------------------
 * 5. Names: behind @author, Author:, __author__ =, "Created by" and the like. A name is one to four
 * words that begin with a capital (or are not ASCII), with small words as in "de la" between them;
 * behind @author also a login. Left alone: teams, companies and unknown authors. */

static const char *word_end(const char *p, const char *end) {
    for (; p < end; p++) {
        bool joins = (*p == '\'' || *p == '-') && p + 1 < end && isalpha((uint8_t)p[1]);
        bool dot = *p == '.' && p + 1 < end && p[1] != '\n';
        if (!isalpha((uint8_t)*p) && (uint8_t)*p < 0x80 && !joins && !dot) break;
    }
    return p;
}

static bool in_list(const char *p, const char *q, const char *words) {
    char key[24] = " ";
    size_t n = (size_t)(q - p);
    if (n > 20) return false;
    for (size_t i = 0; i < n; i++) key[i + 1] = (char)tolower((uint8_t)p[i]);
    key[n + 1] = ' ';
    return strstr(words, key) != NULL;
}

/* The end of the name at p, or NULL. *words: how many. */
static const char *person(const char *p, const char *end, int *words) {
    static const char no_name[] =
        " the team build system inc inc. llc ltd ltd. gmbh corp corp. corporation foundation "
        "project group contributors authors author unknown anonymous your name various none "
        "null company university institute software systems technologies community developers "
        "admin root user administrator microsoft google apache facebook mozilla oracle ibm "
        "nvidia intel apple this see todo n/a default description date version license email "
        "created copyright add if ";
    static const char small[] = " de la van von der den da di del dos el bin ibn al le ";
    const char *last = NULL;
    *words = 0;
    for (int i = 0; i < 6 && p < end; i++) {
        const char *q = word_end(p, end);
        bool capital = isupper((uint8_t)*p) || (uint8_t)*p >= 0xC3;
        if (q == p || (!capital && !in_list(p, q, small))) break;
        if (in_list(p, q, no_name)) return NULL;
        while (q > p + 2 && q[-1] == '.') q--; /* a full stop, but not that of an initial */
        if (capital) {
            last = q;
            if (++*words == 4) break;
        }
        if (q >= end || *q != ' ') break;
        p = q + 1;
    }
    return last;
}

/* More names behind a comma or "and". */
static const char *people(const char *p, const char *end, int *words) {
    const char *last = person(p, end, words);
    for (int more; last;) {
        const char *q = last;
        if (begins(q, end, ", "))
            q += 2;
        else if (begins(q, end, " and "))
            q += 5;
        else if (begins(q, end, " & "))
            q += 3;
        const char *next = q > last ? person(q, end, &more) : NULL;
        if (!next || more < 2) break;
        last = next;
    }
    return last;
}

static bool scan_author(Hit *h, const char *p, const char *q) {
    static const char roles[] = " author authors __author__ maintainer maintainers contributor ";
    static const char deeds[] = " created written modified developed maintained contributed "
                                "authored coded implemented ported updated ";
    const char *end = h->end, *name = q;
    int words;
    if (q - p < 6 || q - p > 12 || (*p != '_' && !strchr("amcwdupi", *p | 32))) return false;
    if (in_list(p, q, deeds)) {
        if (!begins(q, end, " by ") && !begins(q, end, " by: ")) return false;
        name = q + (q[3] == ':' ? 5 : 4);
        const char *last = people(name, end, &words);
        bool day = last && begins(last, end, " on ") && last + 4 < end && isdigit((uint8_t)last[4]);
        return last && (words > 1 || day) && hit(h, PII_NAME, name, last);
    }
    if (!in_list(p, q, roles)) return false;
    bool tag = p > h->s && (p[-1] == '@' || p[-1] == '\\');
    if (name < end && (*name == '"' || *name == '\'')) name++;
    while (name < end && (*name == ' ' || *name == '\t')) name++;
    bool sign = name < end && (*name == ':' || *name == '=');
    if (!sign && !(tag && name > q)) return false;
    while (name < end && strchr(" \t:=\"'[", *name) && *name) name++;
    const char *last = people(name, end, &words), *login = name;
    if (last) return hit(h, PII_NAME, name, last);
    while (login < end && (is_name_char(*login) || *login == '-')) login++;
    bool ends = login == end || strchr("\n\r <,(*", *login);
    return tag && login - name > 2 && ends && islower((uint8_t)*name) &&
           person(name, login, &words) == NULL &&
           !in_list(name, login, " the your unknown none ") && hit(h, PII_NAME, name, login);
}

/* ------------------------------------------------------------------------------------------------
 * 6. The pass */

/* What begins at p: a hit, or *next says where to go on. */
static bool scan(Hit *h, const char *p, const char **next) {
    char c = *p, before = p > h->s ? p[-1] : ' ';
    *next = p + 1;
    if (c == '@') return scan_email(h, p);
    if (c == '-') return before != '-' && scan_pem(h, p);
    if (c == ':' && begins(p, h->end, "://")) return scan_url_password(h, p);
    if (is_name_char(before)) return false;
    if (before != ':' && (isxdigit((uint8_t)c) || c == ':') && scan_ipv6(h, p)) return true;
    if (!is_name_char(c)) return false;
    if (isdigit((uint8_t)c)) return scan_ipv4(h, p);
    const char *q = p;
    while (q < h->end && is_name_char(*q)) q++;
    if (scan_token(h, p)) return true;
    *next = q;
    while (q - p < 40 && q < h->end && *q == '-' && q + 1 < h->end && is_name_char(q[1]))
        for (q++; q < h->end && is_name_char(*q);) q++; /* api-key */
    int kind = q - p > 2 ? secret_name(p, q) : -1;
    return (kind >= 0 && scan_assigned(h, q, kind)) || scan_author(h, p, *next);
}

bool pii_replace(Str text, Buf *out, size_t count[N_PII]) {
    static const char starts[] = "@-:_";
    uint8_t start[256] = { 0 };
    Hit h = { text.s, text.s + text.n, NULL, NULL, text.s, 0 };
    const char *done = text.s, *p = text.s;
    size_t hits = 0, old = out->n;
    for (int c = 0; c < 256; c++) start[c] = c && c < 128 && (isalnum(c) || strchr(starts, c));
    while (p < h.end) {
        if (!start[(uint8_t)*p]) {
            p++;
            continue;
        }
        const char *next;
        if (!scan(&h, p, &next) || h.from < done) {
            p = next;
            continue;
        }
        buf_add(out, done, (size_t)(h.from - done));
        buf_add(out, pii_placeholder[h.kind], strlen(pii_placeholder[h.kind]));
        count[h.kind]++;
        hits++;
        p = done = h.to;
    }
    if (hits)
        buf_add(out, done, (size_t)(h.end - done));
    else
        out->n = old;
    return hits > 0;
}
