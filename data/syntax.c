/* syntax.c: how comments are written in the languages that have no lexer of their own here, and
 * the one lexer that reads the table. See syntax.h.
 *
 * The released filter cuts these languages with pygments; which of its comments count there (flags)
 * was found by giving each of its lexers a comment of each kind. Strings are "..." and '...' with
 * backslashes on one line, which holds for most. */

#include "signals.h"
#include "syntax.h"

#define C_BLOCK                                                                                    \
    { "/*", "*/", NULL, NULL }
#define NO_BLOCK                                                                                   \
    { NULL, NULL, NULL, NULL }

static const Syntax syntaxes[] = {
    /* the marks of C++ */
    { "|aspectj|ceylon|d|dart|groovy|haxe|json|jsonld|kotlin|lasso|mask|minid|openscad|sass|soong|"
      "swift|typst|whiley|xtend|mupad|q|javascript+erb|json with comments|java server pages|",
      { "//" },
      C_BLOCK,
      0 },
    { "|actionscript|chapel|clean|codeql|dylan|gosu|lsl|modelica|nemerle|qml|reason|rust|scss|"
      "scala|solidity|supercollider|systemverilog|v|vala|verilog|wgsl|x10|zephir|pony|",
      { "//" },
      C_BLOCK,
      LINE_FEED },
    { "|cuda|logos|mql4|mql5|objective-c|objective-c++|pawn|pike|promela|swig|ec|nesc|opencl|"
      "metal|glsl|hlsl|ecl|webidl|objective-j|arduino|hack|boogie|csound|",
      { "//" },
      C_BLOCK,
      LINE_FEED },
    { "|boo|io|stan|wren|yara|", { "#", "//" }, C_BLOCK, 0 },
    { "|json5|jsonnet|hcl|", { "#", "//" }, C_BLOCK, LINE_FEED },
    { "|thrift|", { "//", "#" }, C_BLOCK, LINE_FEED | PLAIN_LINE },
    { "|vcl|ooc|", { "//", "#" }, C_BLOCK, PLAIN_LINE },
    { "|antlr|opa|yang|asymptote|haml|pug|scaml|slim|",
      { "//" },
      C_BLOCK,
      PLAIN_LINE | PLAIN_BLOCK },
    { "|zig|", { "//" }, NO_BLOCK, LINE_FEED },
    { "|cypher|gleam|portugol|scilab|protocol buffer|", { "//" }, NO_BLOCK, 0 },
    { "|smithy|kusto|", { "//" }, NO_BLOCK, PLAIN_LINE },
    { "|css|less|sas|stylus|postcss|", { NULL }, C_BLOCK, PLAIN_BLOCK },
    { "|rexx|", { NULL }, C_BLOCK, 0 },
    { "|stata|", { "//", "*" }, C_BLOCK, FIRST_COLUMN },
    { "|alloy|", { "//", "--" }, C_BLOCK, 0 },
    /* # */
    { "|apl|awk|bqn|berry|coffeescript|crystal|elixir|gap|hxml|janet|nit|r|raku|toml|desktop|sed|",
      { "#" },
      NO_BLOCK,
      0 },
    { "|yaml|", { "#" }, NO_BLOCK, BEHIND_SPACE },
    { "|ruby|", { "#" }, { "=begin", "=end", NULL, NULL }, 0 },
    { "|livescript|nix|sieve|", { "#" }, C_BLOCK, 0 },
    { "|ampl|", { "#" }, C_BLOCK, LINE_FEED },
    { "|fancy|limbo|nginx|", { "#" }, NO_BLOCK, LINE_FEED },
    { "|apacheconf|dockerfile|gherkin|golo|graphql|meson|pan|ragel|sparql|tcsh|turtle|zeek|"
      "robotframework|nim|julia|",
      { "#" },
      NO_BLOCK,
      PLAIN_LINE },
    { "|cmake|makefile|myghty|singularity|smali|tcl|fish|",
      { "#" },
      NO_BLOCK,
      LINE_FEED | PLAIN_LINE },
    { "|powershell|", { "#" }, { "<#", "#>", NULL, NULL }, PLAIN_LINE },
    { "|puppet|", { "#" }, C_BLOCK, PLAIN_LINE },
    { "|gdscript|mojo|numpy|sage|starlark|vyper|", { "#" }, { "\"\"\"", "\"\"\"", NULL, NULL }, 0 },
    { "|cython|", { "#" }, { "\"\"\"", "\"\"\"", NULL, NULL }, PLAIN_LINE },
    { "|ini|", { ";", "#" }, NO_BLOCK, FIRST_ON_LINE },
    { "|newlisp|praat|", { ";", "#" }, NO_BLOCK, 0 },
    { "|nsis|", { ";", "#" }, NO_BLOCK, PLAIN_LINE },
    /* ; */
    { "|abnf|clojure|fennel|hy|idl|jasmin|redcode|", { ";" }, NO_BLOCK, 0 },
    { "|racket|scheme|", { ";" }, { "#|", "|#", NULL, NULL }, 0 },
    { "|autoit|blitzbasic|", { ";" }, NO_BLOCK, LINE_FEED },
    { "|autohotkey|", { ";" }, C_BLOCK, 0 },
    { "|ioke|llvm|ncl|rebol|red|", { ";" }, NO_BLOCK, LINE_FEED | PLAIN_LINE },
    { "|pddl|", { ";" }, NO_BLOCK, PLAIN_LINE },
    /* -- */
    { "|lua|luau|", { "--" }, { "--[[", "]]", NULL, NULL }, 0 },
    { "|eiffel|futhark|lean|macaulay2|moonscript|", { "--" }, NO_BLOCK, 0 },
    { "|agda|elm|haskell|idris|", { "--" }, { "{-", "-}", NULL, NULL }, 0 },
    { "|plpgsql|tsql|", { "--" }, C_BLOCK, LINE_FEED },
    { "|vhdl|", { "--" }, C_BLOCK, 0 },
    { "|ada|", { "--" }, NO_BLOCK, LINE_FEED },
    { "|odin|", { "--" }, NO_BLOCK, PLAIN_LINE },
    { "|applescript|", { "--", "#" }, { "(*", "*)", NULL, NULL }, PLAIN_LINE },
    /* ML, Pascal, Prolog, TeX's % and others */
    { "|coq|isabelle|mathematica|ocaml|standard ml|",
      { NULL },
      { "(*", "*)", NULL, NULL },
      PLAIN_BLOCK },
    { "|augeas|ebnf|", { NULL }, { "(*", "*)", NULL, NULL }, 0 },
    { "|f#|", { "//" }, { "(*", "*)", NULL, NULL }, PLAIN_BLOCK },
    { "|pascal|", { "//" }, { "(*", "*)", "{", "}" }, 0 },
    { "|prolog|", { "%" }, C_BLOCK, 0 },
    { "|postscript|lilypond|", { "%" }, NO_BLOCK, 0 },
    { "|erlang|", { "%" }, NO_BLOCK, PLAIN_LINE },
    { "|matlab|", { "%" }, { "%{\n", "\n%}", NULL, NULL }, PLAIN_LINE | NO_STRINGS },
    { "|logtalk|", { "%" }, C_BLOCK, LINE_FEED | PLAIN_LINE | PLAIN_BLOCK },
    { "|basic|vbscript|", { "'" }, NO_BLOCK, NO_STRINGS },
    { "|blitzmax|", { "'" }, NO_BLOCK, LINE_FEED | NO_STRINGS },
    { "|monkey|", { "'" }, NO_BLOCK, PLAIN_LINE | NO_STRINGS },
    { "|fortran|", { "!" }, NO_BLOCK, LINE_FEED | PLAIN_LINE },
    { "|factor|", { "!" }, C_BLOCK, PLAIN_LINE | PLAIN_BLOCK },
    { "|forth|", { "\\ " }, NO_BLOCK, NO_STRINGS },
    { "|j|", { "NB." }, NO_BLOCK, NO_STRINGS },
    { "|smalltalk|", { NULL }, { "\"", "\"", NULL, NULL }, PLAIN_BLOCK | NO_STRINGS },
    { "|abap|", { "\"", "*" }, NO_BLOCK, NO_STRINGS | FIRST_COLUMN },
    { "|xbase|", { "*" }, NO_BLOCK, NO_STRINGS | FIRST_COLUMN },
    /* markup and templates */
    { "|genshi|html+php|tea|vue|xml|xslt|slash|html+erb|",
      { NULL },
      { "<!--", "-->", NULL, NULL },
      NO_STRINGS },
    { "|jinja|twig|", { NULL }, { "{#", "#}", NULL, NULL }, PLAIN_BLOCK | NO_STRINGS },
    { "|mako|", { "##" }, NO_BLOCK, NO_STRINGS },
};

const Syntax *syntax_of(const char *lang) {
    char key[64];
    snprintf(key, sizeof key, "|%.60s|", lang);
    for (size_t i = 0; i < sizeof syntaxes / sizeof *syntaxes; i++)
        if (strstr(syntaxes[i].names, key)) return &syntaxes[i];
    return NULL;
}

static bool first_on_line(const char *p, const char *s) {
    while (p > s && (p[-1] == ' ' || p[-1] == '\t')) p--;
    return p == s || p[-1] == '\n';
}

/* The end of a comment that begins at p, or NULL. `none` remembers blocks that never close. */
static const char *comment_end(const Syntax *s, const char *p, Str text, bool fix, bool none[2],
                               bool *counts) {
    const char *end = text.s + text.n;
    bool column = p == text.s || p[-1] == '\n';
    for (int i = 0; i < 4 && s->block[i]; i += 2) {
        size_t open = strlen(s->block[i]), close = strlen(s->block[i + 1]);
        if (!goes_on(p, end, s->block[i]) || none[i / 2]) continue;
        const char *hit =
            (const char *)memmem(p + open, (size_t)(end - p) - open, s->block[i + 1], close);
        none[i / 2] = !hit;
        *counts = fix || !(s->flags & PLAIN_BLOCK);
        if (hit) return hit + close;
    }
    for (int i = 0; i < 3 && s->line[i]; i++) {
        if (!goes_on(p, end, s->line[i])) continue;
        if (s->flags & FIRST_COLUMN && !column && *s->line[i] == '*') continue;
        if (s->flags & (BEHIND_SPACE | FIRST_ON_LINE) && !column && !isspace((uint8_t)p[-1]))
            continue;
        if (s->flags & FIRST_ON_LINE && !first_on_line(p, text.s)) continue;
        const char *stop = find_byte(p, end, '\n');
        if (stop && s->flags & LINE_FEED) stop++;
        *counts = fix || !(s->flags & PLAIN_LINE);
        return stop ? stop : end;
    }
    return NULL;
}

bool split_by_syntax(const char *lang, Str text, bool fix, Buf *code, Buf *comment) {
    const Syntax *s = syntax_of(lang);
    bool none[2] = { false, false }, counts = false;
    uint8_t starts[256] = { ['"'] = 1, ['\''] = 1 };
    if (!s) return false;
    for (int i = 0; i < 3 && s->line[i]; i++) starts[(uint8_t)*s->line[i]] = 1;
    for (int i = 0; i < 4 && s->block[i]; i += 2) starts[(uint8_t)*s->block[i]] = 1;
    const char *end = text.s + text.n, *from = text.s, *stop;
    for (const char *p = text.s; p < end;) {
        if (!starts[(uint8_t)*p]) {
            p++;
        } else if ((*p == '"' || *p == '\'') && !(s->flags & NO_STRINGS) &&
                   !(s->block[0] && *s->block[0] == '"' && goes_on(p, end, "\"\"\""))) {
            for (stop = p + 1; stop < end && *stop != *p && *stop != '\n'; stop++)
                stop += *stop == '\\';
            p = stop < end && *stop == *p ? stop + 1 : p + 1;
        } else if ((stop = comment_end(s, p, text, fix, none, &counts))) {
            buf_add(code, from, (size_t)((counts ? p : stop) - from));
            if (counts) buf_add(comment, p, (size_t)(stop - p));
            from = p = stop;
        } else {
            p++;
        }
    }
    buf_add(code, from, (size_t)(end - from));
    return true;
}
