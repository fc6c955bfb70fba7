# bench.mk: the benchmarks, included by the Makefile. `make help` says what each of them measures.

.PHONY: bench bench-gemm bench-matmul bench-attention bench-train bench-speculate bench-refine \
        bench-tokenizer

build/machine: bench/machine.c build/flags
	$(CC) $(FLAGS) -ffp-contract=fast $(CFLAGS) -o $@ $< $(LIBS)
build/bench_%: build/bench/%.o $(CPU:%=build/lib/%.o)
	$(CC) $(FLAGS) $(CFLAGS) -o $@ $^ $(LIBS)
build/bench_train_step: build/lib/train.o
build/bench_speculate: build/lib/tokenizer.o

bench: all build/machine ## measure decode and prompt speed against the limits of this machine
	$(PYTHON) bench/bench.py

bench-gemm: build/bench_gemm ## measure the products of training against the multiply-add peak
	build/bench_gemm

bench-matmul: build/bench_matmul ## measure y = x W^T against the bandwidth and the peak
	build/bench_matmul

bench-attention: build/bench_attention ## measure attention against reading and multiply-add peak
	OMP_WAIT_POLICY=passive build/bench_attention

bench-train: build/machine build/bench_train_step ## measure a training step against PyTorch's
	$(PYTHON) bench/train.py

bench-speculate: all build/bench_speculate ## measure what speculation gains and costs
	$(PYTHON) bench/speculate.py

bench-tokenizer: tokenizer ## measure encoding, from 1 KB to 10 MB, on Python's library
	$(PYTHON) bench/tokenizer.py

REFINE_SOURCES ?= $(shell $(PYTHON) -c 'import os; print(os.path.dirname(os.__file__))')
bench-refine: refine ## measure the stages of refine, on Python's library or REFINE_SOURCES
	$(PYTHON) bench/refine.py $(REFINE_SOURCES)
