"""badinput_line.py: command lines of the three programs, and prompts."""

import functools
import random
import re

from badinput_case import accept, act, broken, reject, start, usage
from badinput_files import (ARRAY, BOOL, BYTES, CONTEXT, LFS, STR, TOKENS, Gguf, hf_directory,
                            llama2c)
from check import short

JUNK = "", "abc", "5x", "x5", " 5", "5 ", "1.5", "1e3", "0x10", "5,0", "nan", "--5", "+-5", "\u0665"
NO_FLOAT = "", "abc", "0.5x", " 1", "1 ", "0,5", "nan", "-nan", "nan(1)", "inf", "-inf", \
    "infinity", "1e400", "-1e400", "--1", ".", "e5"
HUGE = "99999999999999999999", "-99999999999999999999", "9223372036854775808"


@functools.lru_cache
def model():
    return Gguf().build()


@functools.lru_cache
def spoken(**keys):
    """A model with more keys set, or another vocabulary."""
    g = Gguf()
    for name, (kind, value) in keys.items():
        g.set(name.replace("__", "."), kind, value)
    return g.build()


@functools.lru_cache
def vocabulary(opencoder=True):
    """A vocabulary with byte tokens and without a model."""
    g = Gguf((*TOKENS, *BYTES)).set("tokenizer.ggml.pre", STR,
                                    "opencoder" if opencoder else "default")
    g.tensors = []
    return g.build()


def say(name, words, out=b"abcd\n", **more):
    """run m.gguf -n 3, and more words, which may overrule it."""
    return accept(f"run: {name}", ["run", "m.gguf", "-n", "3", *words], {"m.gguf": model()}, out,
                  **more)


def refuse(name, words, *mentions, files=None, **more):
    return usage(f"run: {name}", ["run", "m.gguf", *words], *mentions,
                 files={"m.gguf": model(), **(files or {})}, **more)


def numbers():
    """Bad numbers, and numbers at the limits."""
    whole = {"-n": 1 << 30, "-c": 1 << 24, "-b": 65536, "-j": 1024, "--top-k": 1 << 20,
             "--logprobs": 1000, "-s": 9 * 10 ** 15}
    for option, limit in whole.items():
        for text in (*JUNK, *HUGE, str(limit + 1), "-2"):
            yield refuse(f"{option} {text!r}", ["-i", "a", option, text], option, text,
                         "whole number")
    for option, most in (("-t", 100), ("-p", 1), ("--min-p", 1), ("--repeat-penalty", 100)):
        for text in (*NO_FLOAT, str(most + 1), "1e30", "-1", "-1e-9"):
            yield refuse(f"{option} {text!r}", ["-i", "a", option, text], option, text, "a number")
    for text in (*NO_FLOAT, "1001", "-1e4", "1e30"):
        yield refuse(f"--lora-scale {text!r}", ["-i", "a", "--lora", "a", "--lora-scale", text],
                     "--lora-scale", text, "a number")
    yield refuse("--repeat-penalty 0", ["-i", "a", "--repeat-penalty", "0"], "--repeat-penalty")
    for option in "-n", "-c", "-b", "-j":
        if option != "-n":
            yield say(f"{option} 1", ["-i", "a", option, "1"],
                      b"ab\n" if option == "-c" else b"abcd\n")
    yield refuse("-b 0", ["-i", "a", "-b", "0"], "-b", "0")
    yield refuse(f"-c {CONTEXT + 1}", ["-i", "a", "-c", str(CONTEXT + 1)], "-c", CONTEXT + 1,
                 CONTEXT)
    yield say(f"-c {CONTEXT}", ["-i", "a", "-c", str(CONTEXT)])
    yield say("-n 1", ["-i", "a", "-n", "1"], b"ab\n")
    yield say("-n +2", ["-i", "a", "-n", "+2"], b"abc\n")
    yield say("-n 0", ["-i", "w", "-n", "0"], b"wxyz\n")
    for words in (["-t", "1e-40"], ["-t", "1e-400"], ["-t", "-0"], ["-t", "1", "-p", "1e-9"],
                  ["-t", "1", "-p", "0"],
                  ["-t", "1", "--top-k", "1"], ["-t", "0.1", "--min-p", "1"],
                  ["-t", "1", "--top-k", "1000000", "-p", "1e-30", "-s", "9000000000000000"]):
        yield say(" ".join(words), ["-i", "a", "-s", "1", *words])
    yield say("--repeat-penalty 0.01", ["-i", "a", "--repeat-penalty", "0.01"], None)
    yield say("-t 100 -p 1", ["-i", "a", "-t", "100", "-p", "1", "-s", "5"], None)
    yield say("--logprobs 1000", ["-i", "a", "--logprobs", "1000"],
              lambda out: out.count(b"\n") == 3)


def options():
    for option in ("-n", "-c", "-i", "-f", "-t", "-p", "-s", "-m", "-z", "--stop", "--logprobs",
                   "--perplexity", "--against", "--dump-activations", "--cpu", "--cache",
                   "--n-predict", "--lora", "--lora-scale"):
        yield refuse(f"nothing behind {option}", ["-i", "a", option], option, "nothing follows")
    for option in ("-x", "--nosuch", "--", "---", "-ni", "-n5", "--prompt-", "--n", "-\u00e9",
                   "--no\nsuch"):
        yield refuse(f"option {option!r}", ["-i", "a", option], "unknown option")
    yield refuse("--exact=1", ["-i", "a", "--exact=1"], "--exact", "no value")
    yield refuse("--n-predict=", ["-i", "a", "--n-predict="], "--n-predict", "whole number")
    yield say("--n-predict=1", ["-i", "a", "--n-predict=1"], b"ab\n")
    yield refuse("two models", ["-i", "a", "m.gguf"], "m.gguf", "unexpected")
    yield refuse("-m nosuchmode", ["-m", "nosuchmode"], "-m", "nosuchmode")
    yield refuse("--cpu nosuch", ["-i", "a", "--cpu", "nosuch"], "--cpu", "nosuch")
    yield refuse("--cache bf16", ["-i", "a", "--cache", "bf16"], "--cache", "bf16", "q8_0")
    yield refuse("--stop of nothing", ["-i", "a", "--stop", ""], "--stop")
    yield refuse("17 times --stop", ["-i", "a"] + ["--stop", "x"] * 17, "--stop", "16")
    yield say("16 times --stop", ["-i", "a"] + ["--stop", "q"] * 15 + ["--stop", "cd"], b"ab\n")
    yield refuse("-i and -f", ["-i", "a", "-f", "p"], "-i and -f", files={"p": b"a"})
    yield refuse("no prompt", ["-q"], "-i", "empty prompt")
    yield refuse("an empty prompt", ["-i", "", "-q"], "-i", "empty prompt")
    yield refuse("an empty file", ["-f", "p", "-q"], "empty prompt", files={"p": b""})
    yield refuse("an empty stdin", ["-i", "-", "-q"], "empty prompt")
    yield accept("run: an empty prompt, bos", "run m.gguf -i '' -n 3",
                 {"m.gguf": spoken(tokenizer__ggml__add_bos_token=(BOOL, True))}, b"abc\n")
    yield usage("run: no model", "run -i a model.bin more.bin", "more.bin")
    for program in "run", "convert", "tokenizer":
        yield act(f"{program}: no arguments", functools.partial(no_arguments, program))
        yield accept(f"{program}: -h", f"{program} -h", {}, lambda out: b"usage: " in out)
        yield accept(f"{program}: --version", f"{program} --version", {},
                     lambda out: out.startswith(b"opencoder"))
    chat = {"m.gguf": model()}
    long = "x" * 10000
    yield accept("run: chat, stdin at its end", "run m.gguf -m chat", chat, b"")
    yield accept("run: chat, 10 KB as prompt",
                 ["run", "m.gguf", "-m", "chat", "-y", "s", "-i", long], chat, b"")
    yield accept("run: chat, 10 KB as system",
                 ["run", "m.gguf", "-m", "chat", "-y", long, "-i", "a"], chat, b"")
    yield accept("run: chat, 100 KB line", "run m.gguf -m chat -y s", chat, b"",
                 stdin=b"y" * 100000 + b"\n")
    yield accept("run: chat, NUL and invalid UTF-8", "run m.gguf -m chat -y s -n 2", chat, b"ab\n",
                 stdin=b"a\0\xff\n/exit\nb\n")
    yield accept("run: chat, a block without end", "run m.gguf -m chat -y s -n 2", chat, b"ab\n",
                 stdin=b'"""\nx\ny')
    yield accept("run: chat, a backslash at the end", "run m.gguf -m chat -y s -n 2", chat, b"ab\n",
                 stdin=b"x\\")
    plain = Gguf().set("tokenizer.ggml.tokens", ARRAY,
                       (STR, [t[0] for t in TOKENS[:30]] + [b"<A>", b"<B>"]))
    yield reject("run: chat, no chat tokens", "run m.gguf -m chat -q", {"m.gguf": plain.build()},
                 "m.gguf",
                 "<|im_start|>", "<|im_end|>")
    for name, content in ("missing", None), ("empty", b""), ("one letter", b"a"):
        yield reject(f"run: --perplexity, file {name}", "run m.gguf --perplexity p -q",
                     {"m.gguf": model(), **({} if content is None else {"p": content})}, "p")
    yield accept("run: --perplexity", "run m.gguf --perplexity p",
                 {"m.gguf": model(), "p": b"abc\xff\0" * 50},
                 lambda out: out.startswith(b"perplexity "))
    yield accept("run: --dump-activations", "run m.gguf -i abc --dump-activations D",
                 {"m.gguf": model()}, b"",
                 made=["D"])
    yield refuse("--dump-activations, more than a batch",
                 ["-q", "-i", "abc", "-b", "2", "--dump-activations", "D"],
                 "--dump-activations", "3", "2")
    for name, content, words in (("missing", None, ()), ("LFS pointer", LFS, ("LFS",)),
                                 ("text", b"x" * 100, ()),
                                 ("more tokens", vocabulary(), ("288", "32"))):
        yield reject(f"run: -z, {name}", "run m.gguf -i a -z v",
                     {"m.gguf": model(), **({} if content is None else {"v": content})}, "v",
                     *words)
    capital = Gguf().set("tokenizer.ggml.tokens", ARRAY, (STR, [t[0].upper() for t in TOKENS]))
    yield accept("run: -z", "run m.gguf -i A -n 3 -z v",
                 {"m.gguf": model(), "v": capital.build()}, b"ABCD\n")


def no_arguments(program, directory):
    """Usage, as an error: on stderr."""
    done = start([program], directory)
    if broken(done) or done.returncode != 2 or done.stdout or not done.stderr:
        return f"exit code {done.returncode}, {short(done.stdout)} {short(done.stderr)}"
    return None


def converts():
    files = {"m.gguf": model()}

    def bad(name, words, *mentions, more=None):
        return usage(f"convert: {name}", ["convert", *words], *mentions,
                     files={**files, **(more or {})})

    for kind in "q9", "", "q4_k", "q8_0 ", "F64", "q5_0", "8":
        yield bad(f"-q {kind!r}", ["m.gguf", "OUT", "-q", kind], "-q", kind)
    for kind in "onnx", "", "HF":
        yield bad(f"-o {kind!r}", ["m.gguf", "OUT", "-o", kind], "-o", kind)
    yield bad("one file", ["m.gguf"], "IN and OUT")
    yield bad("three files", ["m.gguf", "OUT", "x"], "x")
    yield bad("-o hf with q8_0", ["m.gguf", "OUT", "-o", "hf", "-q", "q8_0"], "-q", "q8_0")
    yield bad("unknown shape", ["--random", "2b", "OUT"], "--random", "2b")
    yield bad("empty shape", ["--random", "", "OUT"], "--random")
    yield bad("--random with IN", ["--random", "tiny", "m.gguf", "OUT"], "OUT")
    yield bad("--random without OUT", ["--random", "tiny"], "OUT")
    yield bad("--random with -o hf", ["--random", "tiny", "OUT", "-o", "hf"], "hf")
    for seed in (*JUNK, *HUGE, "-1"):
        yield bad(f"--seed {seed!r}", ["--random", "tiny", "OUT", "--seed", seed], "--seed", seed)
    yield bad("--inspect with OUT", ["--inspect", "m.gguf", "OUT"], "F")
    yield bad("--inspect and --check", ["--inspect", "m.gguf", "--check", "m.gguf"], "--inspect",
              "--check")
    yield bad("nothing behind -q", ["m.gguf", "OUT", "-q"], "-q", "nothing follows")
    yield bad("unknown option", ["m.gguf", "OUT", "--fast"], "--fast")
    yield bad("OUT is IN", ["m.gguf", "m.gguf"], "m.gguf", "OUT")
    yield bad("OUT is IN by another name", ["m.gguf", "./m.gguf"], "m.gguf", "OUT")
    yield accept("convert: --inspect", "convert --inspect m.gguf", files,
                 lambda out: b"token_embd" in out)
    yield accept("convert: -q Q8_0", "convert m.gguf OUT -q Q8_0 && run OUT -i a -n 3", files,
                 b"abcd\n",
                 made=["OUT"])
    yield accept("convert: -q q4_0", "convert m.gguf OUT -q q4_0 && run OUT -i a -n 3", files,
                 b"abcd\n",
                 made=["OUT"])
    escapes = Gguf().set("general.name", STR, b"a\x1b[31m\nb").build()
    yield accept("convert: --inspect of terminal escapes", "convert --inspect m.gguf",
                 {"m.gguf": escapes},
                 lambda out: b"\x1b" not in out)
    for words in "m.gguf no/OUT", "m.gguf no/OUT -o hf", "--random tiny no/OUT":
        yield reject(f"convert: OUT in no directory: {words}", f"convert {words}", files, "no/OUT",
                     "No such file")
    more = {**files, "d/file": b"x"}
    yield reject("convert: OUT a directory", "convert m.gguf d", more, "d", "not a regular file")
    yield reject("convert: OUT a directory with files, -o hf", "convert m.gguf d -o hf", more, "d",
                 "not empty")
    yield reject("convert: OUT a file, -o hf", "convert m.gguf d/file -o hf", more, "d/file")
    yield reject("convert: OUT empty", ["convert", "m.gguf", ""], files)
    yield reject("convert: OUT empty, -o hf", ["convert", "m.gguf", "", "-o", "hf"], files)
    yield reject("convert: OUT of 300 bytes", ["convert", "m.gguf", "x" * 300], files, "too long")
    yield reject("convert: OUT of 5000 bytes", ["convert", "m.gguf", "x" * 5000], files, "too long")
    for path in "/dev/full", "/dev/null", "/dev/stdout":
        yield reject(f"convert: OUT {path}", f"convert m.gguf {path}", files, path,
                     "not a regular file")
        yield reject(f"convert: OUT {path}, -o hf", f"convert m.gguf {path} -o hf", files, path)
    for option in "", "--inspect", "--check":
        for name in "no", "", "/dev/null", "/dev/zero", "d", "x" * 5000:
            words = ["convert", option, name] if option else ["convert", name, "OUT"]
            yield reject(f"convert: {option} of {name[:10]!r}", words, {"d/x": b""}, name[:20])
    yield reject("convert: a file of the directory", "convert hf/model.safetensors OUT",
                 hf_directory(),
                 "model.safetensors", "directory")
    yield reject("convert: --tokenizer for a directory", "convert hf OUT --tokenizer m.gguf",
                 {**hf_directory(), **files}, "--tokenizer")
    yield reject("convert: llama2.c without --tokenizer", "convert m.bin OUT", {"m.bin": llama2c()},
                 "--tokenizer")


def tokenizers():
    files = {"v": vocabulary()}
    for words, mention in (("nosuch v", "nosuch"), ("encode", "encode"), ("decode", "decode"),
                           ("info", "info"), ("encode v more", "more"), ("info v more", "more"),
                           ("encode v -i a -f p", "-i and -f"), ("encode v --nosuch", "--nosuch"),
                           ("encode v -i", "-i"), ("decode v -1", "-1")):
        yield usage(f"tokenizer: refused: {words}", f"tokenizer {words}", mention, files=files)
    for word in (*JUNK, *HUGE, "288", "2147483648", "4294967296"):
        yield usage(f"tokenizer: decode {word!r}", ["tokenizer", "decode", "v", word], files=files)
        if word not in ("", " 5", "5 "):
            yield reject(f"tokenizer: decode {word!r} from stdin", "tokenizer decode v", files,
                         "stdin", word,
                         stdin=f"4 {word} 5\n".encode())
    yield accept("tokenizer: decode", "tokenizer decode v 4 5 6", files, b"abc")
    yield accept("tokenizer: decode nothing", "tokenizer decode v", files, b"")
    yield accept("tokenizer: encode", "tokenizer encode v -i abc", files, b"4 5 6\n")
    yield accept("tokenizer: encode nothing", "tokenizer encode v", files, b"\n")
    yield accept("tokenizer: info", "tokenizer info v", files, lambda out: b"288" in out)
    for name, content in (("missing", None), ("empty", b""), ("LFS pointer", LFS),
                          ("text", b"x" * 100),
                          ("a llama2.c model", llama2c())):
        yield reject(f"tokenizer: model {name}", "tokenizer info v",
                     {} if content is None else {"v": content}, "v")
    yield reject("tokenizer: text missing", "tokenizer encode v -f p", files, "p", "No such file")
    yield reject("tokenizer: text a directory", "tokenizer encode v -f .", files, "directory")


PROMPTS = {
    "one byte": b"x",
    "bytes FF FE": b"\xff\xfe",
    "100 stray continuation bytes": b"\x80" * 100,
    "the end within a character": b"abc\xf0\x9f\x98",
    "overlong and surrogate": b"\xc0\x80 \xed\xa0\x80 \xf4\x90\x80\x80 \xf8\x88\x80\x80\x80",
    "emoji, marks, RTL, ZWJ": "\U0001f469\u200d\U0001f4bb e\u0301 \u05d0\u05d1 \u202eabc".encode(),
    "names of special tokens": b"<s></s><0x41><unk><|im_start|>user<|im_end|><|im_end",
    "control bytes": bytes(range(1, 32)) + b"\x1b[31m\x1b]0;x\x07\x7f",
    "printf's directives": b"%s%n%d%%%99999d",
    "NUL bytes": b"a\0b\0\0c",
    "line ends": b"a\r\nb\rc\n\n\n\td  \n",
    "2000 spaces": b" " * 2000,
    "10 KB of one letter": b"a" * 10000,
    "100 KB without a space": b"abcdefghij" * 10000,
    "100 KB of one letter": b"z" * 100000,
    "100 KB of source text": b"    for (int i = 0; i < n; i++) x[i] += y[i] * 2;\n" * 2000,
    "100 KB of NUL": bytes(100000),
    "100 KB of noise": random.Random(8).randbytes(100000).replace(b"\xe2\x96\x81", b"xyz"),
    "100 KB of digits": b"1234567890" * 10000,
    "100 KB of line feeds": b"\n" * 100000,
    "100 KB of brackets": b"((((((((((" * 10000,
    "50,000 accents": "\u00e9".encode() * 50000,
    "20,000 begun tokens": b"<|im_s" * 20000,
    "20,000 tokens": b"<|im_start|>" * 20000,
}


def round_trip(content, directory):
    """OpenCoder's ids of any bytes stand for those bytes."""
    done = start("tokenizer encode v -f p", directory)
    if done.returncode:
        return broken(done) or f"encode: exit code {done.returncode}: {short(done.stderr)}"
    back = start("tokenizer decode v", directory, stdin=done.stdout, strict=False)
    if back.returncode or back.stdout != content:
        return broken(back) or f"decode: {short(back.stdout)}, expected {short(content)}"
    return None


def prompts():
    for name, content in PROMPTS.items():
        yield act(f"prompt: {name}, to ids and back", functools.partial(round_trip, content),
                  {"v": vocabulary(), "p": content})
        yield accept(f"prompt: {name}, as SentencePiece", "tokenizer encode v -f p",
                     {"v": vocabulary(False),
                      "p": content}, lambda out: out.endswith(b"\n") and len(out) > 1)
        files = {"m.gguf": model(), "p": content}
        if not re.search(b"[ a-z]", content):  # nothing in it has a token: all of it is one <unk>
            says = content + b"ab\n"
        elif len(content) > 1000:
            yield reject(f"prompt: {name}, too long", "run m.gguf -q -f p", files, "prompt",
                         CONTEXT)
            continue
        else:
            says = lambda out, content=content: out.startswith(content)
        yield accept(f"prompt: {name}, run -f", "run m.gguf -f p -n 2", files, says)
        yield accept(f"prompt: {name}, run -i -", "run m.gguf -i - -n 2", files, says,
                     stdin=content)
    for n in CONTEXT - 1, CONTEXT:
        yield say(f"prompt of {n} tokens", ["-i", "a" * n],
                  b"a" * n + b"bcd"[:CONTEXT - n + 1] + b"\n")
        yield say(f"prompt of {n} tokens, -b 7", ["-i", "a" * n, "-b", "7"],
                  b"a" * n + b"bcd"[:CONTEXT - n + 1] + b"\n")
    for n in CONTEXT + 1, 10 * CONTEXT:
        yield reject(f"run: prompt of {n} tokens", ["run", "m.gguf", "-q", "-i", "a" * n],
                     {"m.gguf": model()}, "prompt", n, CONTEXT)
    yield say("an argument that is not UTF-8", ["-i", b"a\xff\xfe"], b"a\xff\xfeabc\n")
    yield say("special tokens as text", ["-i", "<|im_start|>", "--no-special"],
              lambda out: out.startswith(b"<|im_start|>"))
    yield accept("run: BOS and an unknown letter", "run m.gguf -i \u00e9 -n 2",
                 {"m.gguf": spoken(tokenizer__ggml__add_bos_token=(BOOL, True))},
                 "\u00e9ab\n".encode())


def cases():
    for group in numbers, options, converts, tokenizers, prompts:
        yield from group()
