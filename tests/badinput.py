#!/usr/bin/env python3
"""badinput.py [-k TEXT] [--bin DIR]: hostile and unusual input, each with what must come of it.

    badinput_case.py      what a case is, how it is run and judged
    badinput_files.py     tiny valid files of every format, built so that any part can be wrong
    badinput_gguf.py      GGUF models and vocabularies
    badinput_hf.py        Hugging Face directories: safetensors, PyTorch archives, JSON
    badinput_old.py       SentencePiece models, llama2.c models and tokenizers
    badinput_line.py      command lines and prompts
    badinput_system.py    paths, full disks, closed pipes, signals
    badinput_train.py     shards, checkpoints, options and outputs of training

The programs are those in $OC_BAD_BIN, else in build/asan: built with AddressSanitizer and
UndefinedBehaviorSanitizer, which find what goes wrong without showing. -k runs the cases whose
names have TEXT in them and shows their messages. Python's library is enough."""

import argparse
import concurrent.futures
import os
import shutil

import badinput_case
import badinput_gguf
import badinput_hf
import badinput_line
import badinput_old
import badinput_system
import badinput_train
from check import ROOT, check, end, tool_of

MODULES = [badinput_gguf, badinput_hf, badinput_old, badinput_line, badinput_system,
           badinput_train]
PROGRAMS = ["run", "convert", "tokenizer", "train"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-k", default="", metavar="TEXT", help="only cases with TEXT in the name")
    parser.add_argument("--bin", default=os.environ.get("OC_BAD_BIN", "build/asan"), metavar="DIR")
    options = parser.parse_args()
    badinput_case.BIN = os.path.join(ROOT, options.bin)
    for name in PROGRAMS:
        if not os.access(os.path.join(badinput_case.BIN, name), os.X_OK):
            check(f"there is a program {name}", False, f"not in {badinput_case.BIN}; run make")
            end()
    badinput_case.TOOL = tool_of(badinput_case.BIN)
    cases = [case for module in MODULES for case in module.cases() if options.k in case.name]
    names = [case.name for case in cases]
    check("every case has a name of its own", len(set(names)) == len(names),
          str(sorted({name for name in names if names.count(name) > 1})))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        outcomes = pool.map(badinput_case.run_case, cases, range(len(cases)))
        for case, why in zip(cases, outcomes):
            check(case.name, why is None, why)
    shutil.rmtree(badinput_case.PLACE, ignore_errors=True)
    end()


if __name__ == "__main__":
    main()
