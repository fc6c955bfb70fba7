#!/usr/bin/env bash
# traincuda_test.sh: what of ./traincuda can only be tested on a GPU, in less than 9 minutes. Every
# result is a line.
#
#   1 the checks of tests/test_traincuda.c, natively
#   2 the same under compute-sanitizer: memcheck, then racecheck, where that is installed
#   3 a run of ./traincuda beside the same run of ./train, and resumed by the other
#
# bench/traincuda_test.sh --emulate rehearses it on the CPU, without the sanitizer, which --quick
# leaves out, too.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0 begun=$SECONDS home=build/gpu
mkdir -p $home build/scratch
result() { # result NAME STATUS
    [ "$2" -eq 0 ] && echo "ok $1, after $((SECONDS - begun)) s" && return
    echo "FAIL $1: exit code $2, after $((SECONDS - begun)) s" && bad=1
}

if [ "${1:-}" = --emulate ]; then
    test=build/tests/test_traincuda program=./traincuda-emu
    make -s train tokenizer emu $test > /dev/null
else
    test=build/cuda/test_traincuda program=./traincuda
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
    arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
    make -s -j8 train tokenizer traincuda $test "CUDA_ARCH=${arch:-90}" > /dev/null
fi
result "build" $?

timeout 120 $test > $home/traincuda.log 2>&1
result "test_traincuda: $(grep -c '^ok' $home/traincuda.log) checks" $?
grep -E '^FAIL|^error' $home/traincuda.log
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)
[ $# -eq 0 ] && for tool in memcheck racecheck; do
    if [ -z "$sanitizer" ]; then
        echo "skip $tool: no compute-sanitizer"
        continue
    fi
    timeout 150 "$sanitizer" --tool $tool --error-exitcode 9 $test > $home/$tool.log 2>&1
    result "$tool" $?
    grep -m 5 -E '^=+ (ERROR|Error|Invalid|Race)|^FAIL' $home/$tool.log
done

rm -f $home/run.*
./tokenizer train ./*.c ./*.h -o $home/vocab.gguf --vocab 1024 > $home/tokenizer.log 2>&1 &&
    ./tokenizer pack ./*.c ./*.h -o $home/code.tok --tokenizer $home/vocab.gguf \
        > $home/tokenizer.log 2>&1
result "a shard of our own sources" $?
common=(pretrain $home/code.tok -z $home/vocab.gguf --dim 64 --layers 2 --heads 2 --head-dim 64
        --hidden 96 --ctx 64 --seq-len 64 -b 4 -m 2 -n 6 --save-every 3 --keep 9 --warmup 0
        --val-fraction 0)
losses() { cut -d, -f3 "$home/run.$1.csv" | tail -n +2 | tr '\n' ' '; }
close() { # close NAME A B TOLERANCE: the losses of two runs
    python3 -c 'import sys
a, b = ([float(x) for x in text.split()] for text in sys.argv[1:3])
worst = max((abs(x / y - 1) for x, y in zip(a, b)), default=9)
sys.exit(len(a) != len(b) or worst > float(sys.argv[3]))' \
        "$(losses "$2")" "$(losses "$3")" "$4"
    result "$1" $?
}
timeout 60 ./train "${common[@]}" -o $home/run.cpu 2> $home/cpu.log
timeout 100 $program "${common[@]}" -o $home/run.gpu 2> $home/gpu.log
result "a run in float32" $?
close "its losses are those of ./train" gpu cpu 1e-4
timeout 100 $program "${common[@]}" --bf16 -o $home/run.half 2> $home/half.log
result "a run in bf16" $?
close "its losses are nearly those of ./train" half cpu 0.02
for part in csv ckpt-000003; do cp $home/run.half.$part $home/run.on.$part; done
timeout 100 $program "${common[@]}" --bf16 --resume -o $home/run.on 2> $home/on.log
cmp $home/run.on.ckpt-000006 $home/run.half.ckpt-000006 > /dev/null ||
    cmp <(tail -c 100000 $home/run.on.ckpt-000006) <(tail -c 100000 $home/run.half.ckpt-000006)
result "resumed: the same bits" $?
echo "$((SECONDS - begun)) s in all"
exit $bad
