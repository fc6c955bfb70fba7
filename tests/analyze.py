#!/usr/bin/env python3
"""analyze.py [FILE...]: gcc -fanalyzer, clang-tidy and cppcheck over all C sources.

A complaint is a failure. What is not wanted of clang-tidy stands with its reason in .clang-tidy;
what the analyzers get wrong stands in KNOWN. Programs that are not installed are skipped."""

import concurrent.futures
import glob
import os
import re
import shutil
import subprocess
import sys

from check import ROOT, check, end, skip

FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-march=native", "-Wno-unknown-pragmas"]
LIBRARIES = {"zstd.h": ["-DOC_ZSTD"], "zlib.h": ["-DOC_ZLIB"], "archive.h": ["-DOC_ARCHIVE"],
             "libxml2/libxml/HTMLparser.h": ["-DOC_LIBXML2", "-I/usr/include/libxml2"]}
GCC = ["gcc", "-fanalyzer", "-Wall", "-Wextra", "-Wconversion", "-O1", "-Wno-analyzer-too-complex",
       "-c", "-o", os.devnull]
KNOWN = {  # (file, words of the complaint): why it is wrong
    ("gguf.h", "'type' results in a dereference of a null"): "gguf_has_checksums has seen the key",
    ("run.c", "loaded from field 'wq'"): "weights_bind has filled it, or model_open has died",
    ("run.c", "loaded from field 'backend'"): "filled where opt.against is set, which stays",
    ("gguf.h", "dereference of NULL"): "no type gets there that type_info does not know",
    ("gguf.h", "Attempt to free released memory"): "gguf_free leaves zeros behind",
    ("matmul.c", "dereference of NULL"): "no type gets there that type_info does not know",
    ("matmul.c", "uninitialized value 'closed"): "the tile's function has written it",
    ("matmul.c", "Division by zero"): "the tokens are a multiple of the tile's height",
    # clang-tidy looks into no function with "...", and so does not know that fail() is false.
    ("files.h", "operand of '<' is a garbage value"): "fail() is false",
    ("json.h", "loaded from variable 'parent'"): "fail() is false",
    ("export/hf.c", "Null pointer passed to 2nd parameter"): "bind_all has bound the embedding",
    ("export/hf.c", "5th function call argument is an uninitialized value"): "fail() is false",
    ("export/hf.c", "loaded from variable 'shape'"): "fail() is false",
    ("export/hfvocab.c", "2nd function call argument is an uninitialized value"): "fail() is false",
    ("files.h", "Null pointer passed to 2nd parameter"): "a Str without bytes has n = 0",
    ("files.h", "uninitialized value '((unsigned int *)p)[1]'"): "texts of under 8 bytes: no word",
    # gcc loses sight of what buffers hold; the fuzz targets and ASan count what stays allocated.
    ("files.h", "leak of '<unknown>'"): "the Buf that came in holds it",
    ("files.h", "leak of '*b.data'"): "as above",
    ("json.h", "leak of '<unknown>'"): "the JsonDoc that came in holds it",
    ("engine.h", "dereference of NULL '0'"): "the engine's backend gives logits or dies",
    ("data/document.c", "2nd function call argument is an uninitialized value"): "fail() is false",
    ("export/source.c", "2nd function call argument is an uninitialized value"): "fail() is false",
    ("export/sentencepiece.c", "left operand of '!=' is a garbage value"): "fail() is false",
    ("export/torchzip.c", "loaded from variable 'pkl'"): "fail() is false",
    ("data/synth.c", "left operand of '+' is a garbage value"): "add_text has added to all three",
    ("data/anneal.c", "Assigned value is garbage"): "there are phrases.n texts of phrases",
    ("data/bpe.c", "left operand of '==' is a garbage value"): "a word has a symbol at least",
    ("data/bpe.c", "leak of '<unknown>'"): "the symbol that holds it is one of the learner's",
    ("data/decontaminate.c", "Division by zero"): "--ngram is 1 at least",
    ("data/http.c", "too short to include the null terminator"): "none of the six is a NUL",
    ("data/read.c", "array index out of bounds"): "stat() finds no path without a letter",
    ("data/crawl.c", "leak of 'c'"): "its close() gets it back as a Source",
    ("data/lines.c", "leak of 'l'"): "as above",
    ("data/lines.c", "dereference of NULL 'path'"): "without paths the index of one is not reached",
    ("eval/interpreter.c", "leak of 'strdup("): "the home that came in holds it",
    ("eval/languages.c", "calling 'popen'"): "its commands stand in that file",
    ("cpu/avx512.c", "from '65535' to '-1'"): "that is within a macro of the compiler's",
    ("cpu/plain.c", "dereference of NULL"): "no type gets there that type_info does not know",
    ("cpu/plain.c", "left operand of '*' is a garbage value"): "unpack_block has written it",
}


def flags():
    more = [words for header, words in LIBRARIES.items()
            if os.path.exists(os.path.join("/usr/include", header))]
    return FLAGS + [word for words in more for word in words] + ["-I", "build/eval"]


def sources():
    return sorted(name for place in ("", "cpu/", "export/", "data/", "eval/")
                  for name in glob.glob(place + "*.c", root_dir=ROOT))


def complaints(command, pattern):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace",
                          env={**os.environ, "LC_ALL": "C"})
    said = (done.stdout + done.stderr).replace(ROOT + "/", "")
    lines = re.sub(r"\w+/\.\./", "", said).splitlines()
    found = {line for line in lines if re.search(pattern, line)}
    return sorted(line for line in found if not any(
        line.startswith(file + ":") and words in line for file, words in KNOWN))


def analyze(title, names, command, pattern):
    if not shutil.which(command([""])[0]):
        skip(title, "not installed")
        return
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, found in zip(names, pool.map(
                lambda name: complaints(command([name]), pattern), names)):
            check(f"{title}: {name}", not found, f"{len(found)}, {found[:3]}")


def main():
    names = sys.argv[1:] or sources()
    analyze("gcc -fanalyzer", names, lambda files: [*GCC, *flags(), *files], r"(warning|error): ")
    analyze("clang-tidy", names, lambda files: ["clang-tidy", "--quiet", *files, "--", *flags()],
            r"(warning|error): ")
    analyze("cppcheck", names, lambda files: [
        "cppcheck", "--std=c11", "--enable=warning,performance,portability", "--quiet",
        "--inline-suppr", "--suppress=missingIncludeSystem", *files], r": (warning|error|"
        r"performance|portability): ")
    end()


if __name__ == "__main__":
    main()
