#!/usr/bin/env bash
# traincuda_all.sh: what is to be known of ./traincuda on a GPU, in one call of less than 10
# minutes, the most important first. Each part has its seconds; what it said stays when the next
# ones find no time.
#
#   1 build, the checks of tests/test_traincuda.c, a run beside ./train      traincuda_test.sh
#   2 MFU of the 1.5B at 4096 and of the 8B at 8192 tokens                   traincuda_run.py
#   3 the same steps in PyTorch                                              traincuda_peer.py
#   4 1000 updates of a model of 100M parameters beside PyTorch's            traincuda_curve.py
#   5 the other configurations, a save and resume; compute-sanitizer
#
# bench/traincuda_all.sh --emulate rehearses it on the CPU. PYTHON names a Python that has PyTorch.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3} begun=$SECONDS bad=0 emulate=${1:-}
limit=${SECONDS_IN_ALL:-570}
part() { # part SECONDS NAME COMMAND...: ended after so many seconds, or when all are over
    local left=$((limit - SECONDS + begun)) most=$1 name=$2
    shift 2
    [ $left -lt 10 ] && echo "== $name: no time left" && return
    [ "$most" -gt $left ] && most=$left
    echo "== $name: ${*}"
    timeout -k 5 "$most" "$@"
    local status=$?
    echo "== $name: exit code $status, after $((SECONDS - begun)) s"
    [ $status -ne 0 ] && bad=1
}

if [ "$emulate" = --emulate ]; then
    make -s build/emu/bench_traincuda > /dev/null || exit 1
    part 300 tests bench/traincuda_test.sh --emulate
    part 60 speed "$python" bench/traincuda_run.py --emulate
    part 120 peer "$python" bench/traincuda_peer.py --rehearse
    part 120 curve "$python" bench/traincuda_curve.py --emulate --python "$python"
else
    arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
    export CUDA_ARCH=${arch:-90}
    part 150 tests bench/traincuda_test.sh --quick
    part 60 build make -s -j8 build/cuda/bench_traincuda "CUDA_ARCH=$CUDA_ARCH"
    part 120 speed "$python" bench/traincuda_run.py --first
    part 110 "peer 1.5b" "$python" bench/traincuda_peer.py 1.5b
    part 110 "peer 8b" "$python" bench/traincuda_peer.py 8b
    part 170 curve "$python" bench/traincuda_curve.py
    part 200 "more speed" "$python" bench/traincuda_run.py
    part 300 sanitizer bench/traincuda_test.sh
fi
exit $bad
