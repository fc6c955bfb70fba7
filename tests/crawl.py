"""crawl.py: a small made-up web crawl with known labels, for tests/test_recall.py and
bench/refine_recall.py.

Pages about code (tutorials, API references, questions and answers, blogs) and others (recipes,
news, shops, forums about gardens) are put together from parts by a seeded generator. Domains have
a share of pages about code: most all or none, some a mixture on both sides of 10 %. `crawl` returns
pages; `warc`, `wet` and `lines` make the bytes of files of them."""

import gzip
import html
import json
import random

NOUNS = "parser queue buffer list tree token cache index thread socket matrix graph record".split()
VERBS = "read write parse sort merge split find insert remove encode decode flush update".split()
TYPES = "int str bytes float bool list dict tuple".split()
FOOD = "onion garlic tomato basil butter flour sugar salmon lemon rice pepper cream egg".split()
COOK = "chop stir bake simmer roast whisk season drain fold serve grill knead slice".split()
PLACES = "the city council,the harbour,the old bridge,the football club,the theatre,the market," \
         "the regional court,the school board,the railway,the hospital".split(",")
EVENTS = "has announced new plans,was closed on Monday,will open again in spring,won the match," \
         "faces a debate about money,was praised by visitors,is waiting for an answer".split(",")
GOODS = "lamp chair jacket kettle bicycle backpack watch sofa camera blanket".split()
PRAISE = "comfortable elegant durable affordable popular stylish light warm".split()


def python_code(rng):
    verb, noun, kind = rng.choice(VERBS), rng.choice(NOUNS), rng.choice(TYPES)
    return (f"def {verb}_{noun}(items, limit={rng.randrange(100)}):\n"
            f"    result = []\n    for i, item in enumerate(items):\n"
            f"        if i >= limit or not isinstance(item, {kind}):\n            break\n"
            f"        result.append(item)\n    return result\n")


def c_code(rng):
    verb, noun = rng.choice(VERBS), rng.choice(NOUNS)
    return (f"#include <stdio.h>\n\nint {noun}_{verb}(struct {noun} *p, size_t n) {{\n"
            f"    for (size_t i = 0; i < n; i++) {{\n        if (p[i].next == NULL) return -1;\n"
            f"        printf(\"%d\\n\", p[i].value);\n    }}\n    return 0;\n}}\n")


def shell_code(rng):
    noun = rng.choice(NOUNS)
    return (f"$ git clone https://example.org/{noun}.git && cd {noun}\n$ make -j{rng.randrange(9)}"
            f"\n$ ./{noun} --{rng.choice(VERBS)} input.txt > output.txt\n")


def sql_code(rng):
    noun, other = rng.choice(NOUNS), rng.choice(NOUNS)
    return (f"SELECT {noun}.id, COUNT(*) FROM {noun} JOIN {other} ON {other}.id = {noun}.{other}_id"
            f"\nWHERE {noun}.value > {rng.randrange(100)} GROUP BY {noun}.id;\n")


def sentence_about_code(rng, kind):
    verb, noun, other = rng.choice(VERBS), rng.choice(NOUNS), rng.choice(NOUNS)
    return rng.choice({
        "tutorial": [f"First we define a function to {verb} the {noun}.",
                     f"In the next step the loop will {verb} each {noun} of the {other}.",
                     f"Run the example and print the {noun}."],
        "reference": [f"{verb}({noun}, {other}=None): returns a new {noun}.",
                      f"Raises ValueError if the {other} is empty.",
                      f"This class has a constructor that takes the {noun} as an argument."],
        "question": [f"I get a segmentation fault when I {verb} a {noun} inside of a loop, why?",
                     f"My compiler says undefined reference to `{noun}_{verb}`.",
                     f"The stack trace points at the {noun}, but the {other} is not NULL."],
        "blog": [f"Last week our server could not {verb} the {noun} any more.",
                 f"We can {verb} the {noun} in O(n log n) now that the {other} is sorted.",
                 f"Profiling showed that the {noun} lock was held by a thread of the {other}."],
    }[kind])


def sentence_of_life(rng, kind):
    if kind == "recipe":
        return (f"{rng.choice(COOK).capitalize()} the {rng.choice(FOOD)} with {rng.choice(FOOD)} "
                f"for {rng.randrange(2, 60)} minutes and {rng.choice(COOK)} until golden.")
    if kind == "news":
        return f"{rng.choice(PLACES).capitalize()} {rng.choice(EVENTS)}, people said at night."
    if kind == "shop":
        return (f"This {rng.choice(PRAISE)} {rng.choice(GOODS)} costs only {rng.randrange(5, 500)}"
                f".99, free delivery and {rng.randrange(1, 5)} years of warranty.")
    return (f"My {rng.choice(FOOD)} plants look pale since {rng.choice(PLACES)} had frost, "
            f"should I water them more often?")


LANGUAGES = {"tutorial": [python_code], "reference": [python_code, c_code],
             "question": [c_code, shell_code, sql_code], "blog": [shell_code, sql_code]}


def code_page(rng, kinds=("tutorial", "reference", "question", "blog")):
    """A title, and blocks (tag, text) of a page about code."""
    kind = rng.choice(kinds)
    blocks = []
    for _ in range(rng.randrange(1, 5)):
        blocks.append(("p", " ".join(sentence_about_code(rng, kind)
                                     for _ in range(rng.randrange(1, 4)))))
        if rng.random() < (0.3 if kind == "blog" else 0.8):
            blocks.append(("pre", rng.choice(LANGUAGES[kind])(rng)))
    return f"{kind.capitalize()}: {rng.choice(NOUNS)} and {rng.choice(NOUNS)}", blocks


def other_page(rng):
    kind = rng.choice(["recipe", "news", "shop", "garden"])
    blocks = [("p", " ".join(sentence_of_life(rng, kind) for _ in range(rng.randrange(2, 6))))
              for _ in range(rng.randrange(2, 6))]
    return f"{kind.capitalize()} of {rng.choice(PLACES)}", blocks


def short_page(rng):
    """A page about code that does not look like it: a few words without a line of code."""
    return "Answer", [("p", f"Thank you, this solved it. See the thread of {rng.choice(PLACES)} "
                            f"about the {rng.choice(NOUNS)}.")]


# host, pages of 100, share of pages about code, where they lie, where the others lie
SITES = [("docs.py{n}.example-lang.org", 6, 1.0, "/3/library/", "/"),
         ("www.qanda{n}.com", 10, 0.9, "/questions/", "/about/"),
         ("ann{n}.github.io", 4, 0.8, "/posts/", "/travel/"),
         ("blog{n}.example.co.uk", 8, 0.3, "/dev/", "/life/"),
         ("www.forum{n}.net", 20, 0.04, "/t/", "/t/"),
         ("www.cooking{n}.com", 20, 0.0, "/", "/recipes/"),
         ("news{n}.example.com.au", 20, 0.0, "/", "/local/"),
         ("shop{n}.store", 12, 0.0, "/", "/item/")]


def crawl(n_pages, seed=1):
    """Pages in random order: dicts of url, title, blocks, code (the label) and hard, which says
    that the text alone does not tell."""
    rng = random.Random(seed)
    pages = []
    for group in range(max(1, n_pages // 400)):
        for host, count, share, code_at, other_at in SITES:
            for i in range(count * min(n_pages, 400) // 100):
                about_code = rng.random() < share
                hard = about_code and "qanda" in host and rng.random() < 0.1
                title, blocks = (short_page if hard else code_page if about_code
                                 else other_page)(rng)
                where = code_at if about_code else other_at
                pages.append({"url": f"https://{host.format(n=group)}{where}{i}", "title": title,
                              "blocks": blocks, "code": about_code, "hard": hard})
    rng.shuffle(pages)
    return pages


def seed_pages(n, seed=2):
    """Pages about code that are not of the crawl, as JSON Lines want them: like a real seed they
    are of a few kinds only."""
    rng = random.Random(seed)
    out = []
    for i in range(n):
        page = dict(zip(("title", "blocks"), code_page(rng, ["tutorial", "reference"])))
        out.append({"url": f"https://seed.example.org/{i}", "text": text_of(page)})
    return out


def text_of(page):
    return "\n".join([page["title"], *(text for _, text in page["blocks"])])


def html_of(page, charset="utf-8"):
    body = "".join(f"<{tag}>{html.escape(text)}</{tag}>\n" for tag, text in page["blocks"])
    return (f"<!DOCTYPE html><html><head><meta charset=\"{charset}\"><title>"
            f"{html.escape(page['title'])}</title><script>var tracker = {{a: 1}};</script>"
            "<style>p { color: red }</style></head><body><nav><a href=\"/\">Home</a></nav>"
            f"{body}<footer>Imprint &amp; contact</footer></body></html>")


def chunked(data, size=500):
    parts = [data[i:i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


def answer(body, content_type="text/html; charset=utf-8", status="200 OK", headers=()):
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def record(url, block, kind="response", content_type="application/http; msgtype=response",
           length=None):
    """One record of a WARC file; `length` may lie."""
    head = ["WARC/1.0", f"WARC-Type: {kind}", f"WARC-Target-URI: {url}",
            "WARC-Date: 2024-03-01T12:00:00Z", f"Content-Type: {content_type}",
            f"Content-Length: {len(block) if length is None else length}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def warc(pages, pack=True):
    """A WARC file as crawlers write them: information, then a request and an answer a page."""
    records = [record("", b"software: made up\r\n", "warcinfo", "application/warc-fields")]
    for i, page in enumerate(pages):
        body, headers = html_of(page).encode(), []
        if i % 3 == 1:
            body, headers = chunked(body), ["Transfer-Encoding: chunked"]
        if i % 3 == 2:
            body, headers = gzip.compress(body, 1), ["Content-Encoding: gzip"]
        records.append(record(page["url"], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "request",
                              "application/http; msgtype=request"))
        records.append(record(page["url"], answer(body, headers=headers)))
    return b"".join(gzip.compress(r, 1) if pack else r for r in records)


def wet(pages):
    return b"".join(gzip.compress(record(page["url"], text_of(page).encode(), "conversion",
                                         "text/plain"), 1) for page in pages)


def lines(pages, key="text"):
    return "".join(json.dumps({"url": page["url"], key: text_of(page)}) + "\n"
                   for page in pages).encode()


def quality(found, pages):
    """Precision and recall of a set of addresses."""
    true = {page["url"] for page in pages if page["code"]}
    hits = len(found & true)
    return hits / max(1, len(found)), hits / max(1, len(true))
