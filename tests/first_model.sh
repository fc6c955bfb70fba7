#!/usr/bin/env bash
# first_model.sh SRC_DIR OUT_DIR: from a directory of Python source to a small model that chats, with
# the programs of this repository alone. Every step is printed before it is run. For instance:
#
#     tests/first_model.sh "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" out
#
# About 5 % of the files, chosen by a hash of their path, are held out to measure the loss on.
# Directories with tests or installed packages are left out. PRETRAIN, ANNEAL, SFT1 and SFT2 may be
# set to other options of ./train.
set -euo pipefail

[ $# -eq 2 ] || { echo "usage: $0 SRC_DIR OUT_DIR" >&2; exit 2; }
src=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
cd "$(dirname "$0")/.."

: "${PRETRAIN:=}" # steps, batch and learning rate: what ./train does by itself
: "${ANNEAL:=}"
: "${SFT1:=}"
: "${SFT2:=}"

# Prints a command and runs it. Options from the variables above are several words.
step() {
    printf '\n$'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}

echo
echo "# $src: train.jsonl, and one file in twenty to val.jsonl"
python3 - "$src" "$out" << 'END'
import hashlib, json, os, sys

source, out = sys.argv[1:]
sys.path.insert(0, "tests")
from docstring_pairs import sources

with open(os.path.join(out, "train.jsonl"), "w") as train, \
        open(os.path.join(out, "val.jsonl"), "w") as val:
    for path in sources(source):
        name = os.path.relpath(path, source)
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, ValueError):
            continue
        held_out = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 20 == 0
        print(json.dumps({"path": name, "content": text}), file=val if held_out else train)
END

step ./tokenizer train "$out/train.jsonl" -o "$out/vocab.gguf" --vocab 4096
step ./tokenizer pack "$out/train.jsonl" -o "$out/train.tok" --tokenizer "$out/vocab.gguf"
step ./tokenizer pack "$out/val.jsonl" -o "$out/val.tok" --tokenizer "$out/vocab.gguf"
step python3 tests/docstring_pairs.py "$src" "$out/pairs.jsonl"
step ./tokenizer pack "$out/pairs.jsonl" -o "$out/pairs.tok" --tokenizer "$out/vocab.gguf"

# shellcheck disable=SC2086
{
    step ./train pretrain "$out/train.tok" --val "$out/val.tok" --shape tiny \
        --tokenizer "$out/vocab.gguf" $PRETRAIN -o "$out/base.bin"
    step ./train anneal "$out/train.tok" --val "$out/val.tok" --init "$out/base.bin" \
        $ANNEAL -o "$out/annealed.bin"
    step ./train sft "$out/pairs.tok" --init "$out/annealed.bin" --stage 1 $SFT1 -o "$out/sft.bin"
    step ./train sft "$out/pairs.tok" --init "$out/sft.bin" --stage 2 $SFT2 -o "$out/chat.bin"
}
step ./run "$out/chat.bin" -m chat
