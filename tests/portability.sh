#!/usr/bin/env bash
# portability.sh [WORD...]: builds with every compiler, libc, level of optimization and machine that
# is here, in a copy of the tree, and lets the programs work; WORDs choose lines of the table. What
# is not installed is skipped. Where the programs cannot run they must not compile, and say why.
#
# The work: random weights, a conversion, a check, text from the model, ids, two steps of training;
# the text must be that of the usual build where the arithmetic is the same (--cpu plain).
set -u
cd "$(dirname "$0")/.." || exit 1
root=$PWD
place=$root/build/portability
mkdir -p "$place"
failed=0

# row RESULT NAME DETAIL: a line of the table
row() {
    printf '%-6s %-34s %s\n' "$1" "$2" "$3"
    [ "$1" != FAIL ] || failed=1
}

wanted() { # is the line among those asked for?
    [ ${#words[@]} -eq 0 ] && return 0
    for word in "${words[@]}"; do [[ $1 == *"$word"* ]] && return 0; done
    return 1
}
words=("$@")

# A copy of the sources, so that the objects here stay what they are.
copy() {
    rm -rf "$place/$1"
    mkdir -p "$place/$1"
    git ls-files -z -c -o --exclude-standard | grep -zv '^bench/results' |
        xargs -0 cp --parents -t "$place/$1" 2> /dev/null
}

# work DIR RUNNER: what every build must be able to do; prints a checksum of the results
work() {
    local bin=$1 run=$2 out=$1/work
    rm -rf "$out" && mkdir -p "$out"
    $run "$bin/tokenizer" encode tests/data/tok_bpe.gguf -i 'def f(x):' > "$out/ids" || return 1
    printf 'def f(x):\n    return x\n%.0s' {1..200} > "$out/text.py"
    $run "$bin/tokenizer" pack "$out/text.py" -o "$out/t.tok" \
        --tokenizer tests/data/tok_bpe.gguf 2> /dev/null || return 1
    $run "$bin/train" pretrain "$out/t.tok" --tokenizer tests/data/tok_bpe.gguf --dim 32 \
        --layers 1 --heads 2 --ctx 64 --steps 2 --batch 2 --seq-len 16 --val-fraction 0 -j 1 \
        --cpu plain -o "$out/m.gguf" 2> /dev/null || return 1
    $run "$bin/convert" "$out/m.gguf" "$out/q.gguf" -q q8_0 2> /dev/null || return 1
    $run "$bin/convert" --check "$out/q.gguf" > /dev/null || return 1
    $run "$bin/run" "$out/q.gguf" -i 'def f' -n 20 -q --cpu plain -j 1 > "$out/text" || return 1
    cat "$out/ids" "$out/text" "$out/m.gguf" | cksum
}

# try NAME NEEDS RUNNER MAKE-ARGUMENTS...: a build and its work
try() {
    local name=$1 needs=$2 run=$3 sum begun=$SECONDS
    shift 3
    wanted "$name" || return
    command -v "$needs" > /dev/null || { row skip "$name" "no $needs"; return; }
    if [ -n "$run" ] && ! command -v "${run%% *}" > /dev/null; then
        row skip "$name" "no ${run%% *}"
        return
    fi
    copy now
    if ! make -s -j2 -C "$place/now" CI=true "$@" run train tokenizer convert > "$place/log" 2>&1
    then
        row FAIL "$name" "$(grep -m1 -E 'error|Error' "$place/log")"
        return
    fi
    sum=$(cd "$place/now" && work . "$run" 2> "$place/log") ||
        { row FAIL "$name" "does not work: $(tail -n 1 "$place/log")"; return; }
    if [ -z "${usual:-}" ]; then usual=$sum; fi
    if [ "$sum" = "$usual" ]; then
        row ok "$name" "the same bytes, $((SECONDS - begun)) s"
    else
        row ok "$name" "works, other bytes than gcc -O3, $((SECONDS - begun)) s"
    fi
}

# refuse NAME COMPILER WORDS: the compiler must stop, with those words
refuse() {
    local name=$1 compiler=$2 words_of_it=$3 said
    wanted "$name" || return
    command -v "$compiler" > /dev/null || { row skip "$name" "no $compiler"; return; }
    if said=$("$compiler" -std=c11 -c -o /dev/null run.c 2>&1); then
        row FAIL "$name" "compiles, expected it to say: $words_of_it"
    elif [[ $said == *"$words_of_it"* ]]; then
        row ok "$name" "refused: ...$words_of_it"
    else
        row FAIL "$name" "$(grep -m1 error <<< "$said")"
    fi
}

try "gcc -O3" gcc "" CC=gcc
try "gcc -O0" gcc "" CC=gcc CFLAGS=-O0
try "gcc -O1" gcc "" CC=gcc CFLAGS=-O1
try "gcc -O2" gcc "" CC=gcc CFLAGS=-O2
try "gcc, no OpenMP" gcc "" CC=gcc CFLAGS=-O2 OMP=0
try "gcc -march=x86-64 (no AVX)" gcc "" CC=gcc "CFLAGS=-O2 -march=x86-64"
try "gcc -march=haswell (AVX2)" gcc "" CC=gcc "CFLAGS=-O2 -march=haswell"
for compiler in gcc-11 gcc-13 gcc-14 clang clang-15 clang-16 clang-19; do
    try "$compiler -O2" "$compiler" "" CC="$compiler" CFLAGS=-O2
done
try "clang -O0" clang "" CC=clang CFLAGS=-O0
try "musl, static" musl-gcc "" CC=musl-gcc OMP=0 "CFLAGS=-O2 -static"
try "aarch64 under qemu" aarch64-linux-gnu-gcc "qemu-aarch64 -L /usr/aarch64-linux-gnu" \
    CC=aarch64-linux-gnu-gcc OMP=0 "CFLAGS=-O2 -march=armv8-a"
refuse "32 bit x86" i686-linux-gnu-gcc "it needs a 64-bit machine"
refuse "big-endian s390x" s390x-linux-gnu-gcc "this machine is big-endian"
refuse "Windows, MinGW-w64" x86_64-w64-mingw32-gcc "needs POSIX"

rm -rf "$place/now"
exit $failed
