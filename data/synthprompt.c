/* synthprompt.c: what a model is asked for `./refine synth`. See synth.h.
 *
 * What to know first: the prompts of OpenCoder (arXiv 2411.04905) are not public; these are ours.
 * What they ask for is what answers.py looks for. How hard, and for whom, changes from seed to seed
 * and from sample to sample. Test: tests/test_synth.py. */

#include "synth.h"

#include "dedup.h" /* sha256 */

/* What a prompt varies, so that a model does not write the same thing for ever. */
static const char *const levels[] = { "an easy", "a moderately hard", "a hard", "a practical" };
static const char *const readers[] = {
    "beginners",
    "students of computer science",
    "people who know another language",
    "programmers with some years of practice",
};

/* {1} the seed, {2} the level, {3} the readers, {4} the library, {5} the function, {6} signature */
static const char exercise_form[] =
    "Answer in exactly this form, with these three headings:\n\n"
    "## Question\n"
    "The task in plain words. Name the function that is to be written and its arguments, say what "
    "it returns, and give one example of a call.\n\n"
    "## Answer\n"
    "A short explanation, then the solution as one fenced block of Python, which needs nothing "
    "else.\n\n"
    "## Tests\n"
    "One fenced block of Python with at least five assert statements that call the function, edge "
    "cases included. Nothing but asserts.";
static const char *const prompt_form[N_KINDS] = {
    [SNIPPET] =
        "Here is some code:\n\n```\n{1}\n```\n\n"
        "Take one idea of it and write {2} function of your own in Python, or a small class, "
        "which works without that code. It may use Python's standard library, but no files, "
        "no network and no input, and it has a docstring.\n\n"
        "Answer with two fenced blocks of Python and nothing else: first the code; then at "
        "least five assert statements that compare its results with what is right, edge "
        "cases included.",
    [TEXTBOOK] =
        "Here is some code:\n\n```\n{1}\n```\n\n"
        "Write a chapter of a textbook for {3} that teaches the ideas behind it. Use "
        "Markdown with several headings. Explain in full sentences what the problem is, why "
        "the method works and what it costs; show at least two short programs in fenced "
        "blocks; end with an exercise and its solution. The reader does not have the code "
        "above, so do not speak of it.",
    [EDUCATIONAL] = "Here is some code:\n\n```\n{1}\n```\n\n"
                    "Invent {2} exercise in Python for {3} that practises one idea of it, and that "
                    "is clear to a reader who does not have this code. ",
    [PACKAGE] = "This is the documentation of `{5}` in Python's library `{4}`:\n\n{6}\n\n{1}\n\n"
                "Invent {2} task for {3} that is best solved with `{5}`. The solution imports "
                "`{4}` and uses `{5}` as it is documented. ",
};

void write_prompt(int kind, Question *q, const Seed *s) {
    uint64_t random = mix64(crc32c(0, s->text.data, s->text.n) + ((uint64_t)q->sample << 32) + 1);
    const char *texts[] = { s->text.data,
                            levels[random % (sizeof levels / sizeof *levels)],
                            readers[(random >> 32) % (sizeof readers / sizeof *readers)],
                            s->library.data,
                            s->title.data,
                            s->about.data };
    for (const char *p = prompt_form[kind]; *p; p++) {
        bool slot = p[0] == '{' && p[1] >= '1' && p[1] <= '6' && p[2] == '}';
        const char *text = slot ? texts[p[1] - '1'] : p;
        buf_add(&q->prompt, text, slot ? strlen(text) : 1);
        p += slot ? 2 : 0;
    }
    if (kind == EDUCATIONAL || kind == PACKAGE)
        buf_add(&q->prompt, exercise_form, sizeof exercise_form - 1);
    uint8_t digest[32];
    uint64_t key;
    sha256(q->prompt.data, q->prompt.n, digest);
    memcpy(&key, digest, sizeof key);
    q->key = mix64(key + (uint64_t)q->sample);
}
