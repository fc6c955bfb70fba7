#!/usr/bin/env bash
# portability.sh [WORD...]: `make portability`: builds with every compiler, libc, level of
# optimization and machine that is here, in a copy of the tree, and lets the programs work; WORDs
# choose lines of the table. What is not installed is skipped by name. Where the programs cannot run
# they must not compile, and say why.
#
# A line is written to build/portability/table as soon as it is known; who starts again goes on
# behind the lines that are there, as long as the sources are the same; FAIL and skip come again.
#
#     ok     all that is asked for
#     part   run, train, tokenizer and convert are well, evaluate or refine do not build
#     skip   something is not installed: what
#     FAIL   does not build with warnings as errors, or a test fails, or the work
#
# The work: ids of a text, a shard, two steps of training, a conversion, a check, text from the
# model; its bytes are compared with those of gcc -O3, all with --cpu plain. They are others where
# the build has no fused multiply-add (cpu/plain.c), or vectors of another width, as the compiler
# orders the sums of train.c's `omp simd` by it (not at -O0: one by one). The tests, OC_SMALL:
# format int8 gemm attention (every level of the CPU against plain), tokenizer, shards, train and
# run (against PyTorch and transformers); in an emulator the C programs that need no file.
set -u
cd "$(dirname "$0")/.." || exit 1
root=$PWD
place=$root/build/portability
table=$place/table
jobs=${JOBS:-2}
small=(test_format test_int8 test_gemm test_attention test_shards)
short=("${small[@]}" test_tokenizer test_train test_run)
words=("$@")
failed=0
mkdir -p "$place"

sources() { git ls-files -z -c -o --exclude-standard | grep -zv '^bench/results'; }
state="# sources $(sources | xargs -0 cat 2> /dev/null | cksum)"
if [ "$(head -n 1 "$table" 2> /dev/null)" = "$state" ]; then
    grep -vE '^(FAIL|skip) ' "$table" > "$table.new"
    mv "$table.new" "$table"
    usual=$(cat "$place/usual" 2> /dev/null)
else
    rm -f "$place/usual"
    echo "$state" > "$table"
    usual=
fi

# row RESULT NAME DETAIL: a line of the table
row() {
    printf '%-5s %-34s %s\n' "$1" "$2" "$3" | tee -a "$table"
    [ "$1" != FAIL ] || failed=1
}

wanted() { # is the line among those asked for, and not there yet?
    grep -qF " $(printf '%-34s' "$1") " "$table" && return 1
    [ ${#words[@]} -eq 0 ] && return 0
    for word in "${words[@]}"; do [[ $1 == *"$word"* ]] && return 0; done
    return 1
}

# work DIR RUNNER LEVEL: what every build must be able to do; prints a checksum of the results
work() {
    local bin=$1 run=$2 level=$3 out=$1/work
    rm -rf "$out" && mkdir -p "$out"
    $run "$bin/tokenizer" encode tests/data/tok_bpe.gguf -i 'def f(x):' > "$out/ids" || return 1
    printf 'def f(x):\n    return x\n%.0s' {1..200} > "$out/text.py"
    $run "$bin/tokenizer" pack "$out/text.py" -o "$out/t.tok" \
        --tokenizer tests/data/tok_bpe.gguf 2> /dev/null || return 1
    $run "$bin/train" pretrain "$out/t.tok" --tokenizer tests/data/tok_bpe.gguf --dim 32 \
        --layers 1 --heads 2 --ctx 64 --steps 2 --batch 2 --seq-len 16 --val-fraction 0 -j 1 \
        --cpu "$level" -o "$out/m.gguf" 2> /dev/null || return 1
    $run "$bin/convert" "$out/m.gguf" "$out/q.gguf" -q q8_0 2> /dev/null || return 1
    $run "$bin/convert" --check "$out/q.gguf" > /dev/null || return 1
    $run "$bin/run" "$out/q.gguf" -i 'def f' -n 20 -q --cpu "$level" -j 1 > "$out/text" || return 1
    cat "$out/ids" "$out/text" "$out/m.gguf" | cksum
}

same() { # SUM: in words
    if [ -z "$usual" ]; then
        echo "works"
    elif [ "$1" = "$usual" ]; then
        echo "the same bytes"
    else
        echo "other bytes than gcc -O3"
    fi
}

# tests RUNNER: of the build in now; prints how many checks there were, or the first that failed
tests() {
    local run=$1 said
    if [ -n "$run" ]; then
        for test in "${small[@]}"; do
            $run "build/tests/$test" 2>&1 || echo "FAIL $test: exit code $?"
        done > "$place/log"
        grep -m1 '^FAIL' "$place/log" && return 1
        echo "$(grep -c '^ok' "$place/log") checks"
        return
    fi
    said=$(python3 tests/run_tests.py --timeout "${OC_SECONDS:-600}" "${short[@]}" 2>&1) || {
        grep -m1 'FAIL' <<< "$said"
        return 1
    }
    tail -n 1 <<< "$said"
}

# try NAME RUNNER MAKE-ARGUMENTS...: a build, its tests and its work. The compiler is CC=...
try() {
    local name=$1 run=$2 sum checks begun=$SECONDS result=ok less='' compiler
    shift 2
    wanted "$name" || return
    compiler=${1#CC=}
    for needed in "$compiler" ${run%% *}; do
        command -v "$needed" > /dev/null || { row skip "$name" "no $needed"; return; }
    done
    rm -rf "$place/now"
    mkdir -p "$place/now"
    sources | xargs -0 cp --parents -t "$place/now" 2> /dev/null
    local goals=(run train tokenizer convert "${short[@]/#/build/tests/}")
    [ -z "$run" ] || goals=(run train tokenizer convert "${small[@]/#/build/tests/}")
    if ! make -s -j"$jobs" -C "$place/now" CI=true "$@" "${goals[@]}" > "$place/log" 2>&1; then
        row FAIL "$name" "$(grep -m1 -E 'error|Error' "$place/log")"
        return
    fi
    if ! make -s -j"$jobs" -C "$place/now" CI=true "$@" evaluate refine > "$place/log" 2>&1; then
        result=part
        less=", without evaluate or refine: $(grep -m1 -E 'error|cannot find' "$place/log")"
    fi
    export OC_SMALL=1 OMP_WAIT_POLICY=passive
    sum=$(cd "$place/now" && work . "$run" plain 2> "$place/log") ||
        { row FAIL "$name" "does not work: $(tail -n 1 "$place/log")"; return; }
    checks=$(cd "$place/now" && tests "$run") || { row FAIL "$name" "$checks"; return; }
    if [ "$name" = "gcc -O3" ]; then
        usual=$sum
        echo "$usual" > "$place/usual"
        levels
    fi
    row $result "$name" "$(same "$sum"), $checks, $((SECONDS - begun)) s$less"
}

levels() { # of the CPU, by --cpu, in the build of gcc -O3
    for level in amx avx512bf16 avx512 avx2; do
        sum=$(cd "$place/now" && work . "" $level 2> "$place/log") ||
            { row skip "--cpu $level" "not a level of this CPU"; continue; }
        row ok "--cpu $level" "$(same "$sum")"
    done
}

# refuse NAME WORDS COMPILER...: the compiler must stop, with those words
refuse() {
    local name=$1 words_of_it=$2 said
    shift 2
    wanted "$name" || return
    command -v "$1" > /dev/null || { row skip "$name" "no $1"; return; }
    if said=$("$@" -std=c11 -fsyntax-only run.c 2>&1); then
        row FAIL "$name" "compiles, expected it to say: $words_of_it"
    elif [[ $said == *"$words_of_it"* ]]; then
        row ok "$name" "refused: ...$words_of_it"
    elif [[ $said == *"fatal error"*"No such file"* ]]; then
        row skip "$name" "no headers: $(grep -m1 -o 'fatal error.*' <<< "$said")"
    else
        row FAIL "$name" "$(grep -m1 error <<< "$said")"
    fi
}

refuse "32 bit, gcc -m32" "it needs a 64-bit machine" gcc -m32
refuse "32 bit, i686-linux-gnu-gcc" "it needs a 64-bit machine" i686-linux-gnu-gcc
refuse "big-endian, s390x" "this machine is big-endian" s390x-linux-gnu-gcc
refuse "Windows, MinGW-w64" "needs POSIX" x86_64-w64-mingw32-gcc
try "gcc -O3" "" CC=gcc
try "gcc -O0" "" CC=gcc "CFLAGS=-O0 -march=native"
try "gcc -O1" "" CC=gcc "CFLAGS=-O1 -march=native"
try "gcc -O2" "" CC=gcc "CFLAGS=-O2 -march=native"
try "gcc -O2, no OpenMP" "" CC=gcc "CFLAGS=-O2 -march=native" OMP=0
if [ "$(uname -m)" = x86_64 ]; then
    try "gcc -O2 -march=x86-64, no AVX" "" CC=gcc "CFLAGS=-O2 -march=x86-64"
    try "gcc -O2 -march=x86-64-v3, AVX2" "" CC=gcc "CFLAGS=-O2 -march=x86-64-v3"
fi
try "clang -O3" "" CC=clang
try "clang -O0" "" CC=clang "CFLAGS=-O0 -march=native"
try "clang -O1" "" CC=clang "CFLAGS=-O1 -march=native"
try "clang -O2" "" CC=clang "CFLAGS=-O2 -march=native"
try "clang -O2, no OpenMP" "" CC=clang "CFLAGS=-O2 -march=native" OMP=0
for other in gcc-11 gcc-13 gcc-14 gcc-15 clang-15 clang-16 clang-17 clang-18 clang-19 clang-20; do
    try "$other -O2" "" CC=$other "CFLAGS=-O2 -march=native"
done
try "musl, static" "" CC=musl-gcc OMP=0 "CFLAGS=-O2 -static"
try "aarch64 under qemu" "qemu-aarch64 -L /usr/aarch64-linux-gnu" \
    CC=aarch64-linux-gnu-gcc OMP=0 "CFLAGS=-O2 -march=armv8-a"

rm -rf "$place/now"
exit $failed
