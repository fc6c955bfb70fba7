#!/usr/bin/env bash
# gpu_test.sh: what can only be tested on a GPU, in less than 9 minutes. Every result is a line.
#
#   1 the checks of tests/test_cuda.c, natively
#   2 most of them under compute-sanitizer: memcheck, then racecheck, where that is installed
#   3 128 greedy tokens of random 1.5B and 8B models, --exact, against ./run on the CPU
#
# bench/gpu_test.sh --emulate rehearses it on the CPU, with a tiny model and without the sanitizer.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0 begun=$SECONDS
mkdir -p build/gpu
result() { # result NAME STATUS
    [ "$2" -eq 0 ] && echo "ok $1, after $((SECONDS - begun)) s" && return
    echo "FAIL $1: exit code $2, after $((SECONDS - begun)) s" && bad=1
}

if [ "${1:-}" = --emulate ]; then
    shapes=tiny n=8 test=build/tests/test_cuda program=./runcuda-emu
    make -s run convert emu $test > /dev/null
else
    shapes="1.5b 8b" n=128 test=build/cuda/test_cuda program=./runcuda
    export OC_NATIVE=1
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
    arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
    make -s -j8 run convert runcuda $test "CUDA_ARCH=${arch:-90}" > /dev/null
fi
result "build" $?

# The models are written while the tests run: bf16 weights, which --exact multiplies in float32.
for shape in $shapes; do
    [ -f "build/gpu/$shape.gguf" ] ||
        ./convert --random "$shape" "build/gpu/$shape.gguf" -q bf16 --seed 1 > /dev/null
done &
writer=$!

timeout 120 $test > build/gpu/test.log 2>&1
result "test_cuda: $(grep -c '^ok' build/gpu/test.log) checks" $?
grep '^FAIL' build/gpu/test.log
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)
[ "$program" = ./runcuda ] && for tool in memcheck racecheck; do
    if [ -z "$sanitizer" ]; then
        echo "skip $tool: no compute-sanitizer"
        continue
    fi
    OC_SMALL=1 timeout 120 "$sanitizer" --tool $tool --error-exitcode 9 $test \
        > build/gpu/$tool.log 2>&1
    result "$tool" $?
    grep -m 5 -E '^=+ (ERROR|Error|Invalid|Race)|^FAIL' build/gpu/$tool.log
done
wait $writer
result "random models" $?

ids() { # the ids of JSON lines
    python3 -c 'import json, sys; print([json.loads(line)["id"] for line in sys.stdin])'
}
for shape in $shapes; do
    model=build/gpu/$shape.gguf common=(-i "def fib(n):" -n $n --exact -c 512 -q --logprobs 1)
    timeout 200 ./run "$model" "${common[@]}" | ids > build/gpu/cpu.ids
    timeout 100 $program "$model" "${common[@]}" | ids > build/gpu/gpu.ids
    cmp build/gpu/cpu.ids build/gpu/gpu.ids && grep -q , build/gpu/cpu.ids
    result "$shape: $n greedy tokens, --exact, as the CPU's" $?
    timeout 60 $program "$model" -i "def fib(n):" -n $n -c 512 > build/gpu/fast.txt
    result "$shape: the fast path runs" $?
done
echo "$((SECONDS - begun)) s in all"
exit $bad
