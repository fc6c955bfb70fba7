# eval.mk: included by the Makefile: the sandbox that model-written programs run in (eval/).

sandbox_main := eval/sandbox_main
sandbox_parts := $(addprefix eval/,sandbox launch box collect filter python interpreter)
sandbox_py := $(addprefix eval/,wire.py worker.py checker.py server.py)

ifneq ($(SANITIZED),)
SANITIZED += build/asan/sandbox
endif

# The Python that runs inside, as numbers for a C array: one program, whatever the files are called.
build/eval/server.inc: $(sandbox_py)
	@mkdir -p $(@D)
	cat $(sandbox_py) | od -v -An -tu1 | sed 's/\([0-9][0-9]*\)/\1,/g' > $@.new
	mv $@.new $@

$(patsubst %,%/lib/eval/python.o,build build/asan): build/eval/server.inc

# evaluate-cuda, evaluate-emu: the answers come from the GPU's engine.
EVALUATE_GPU := $(patsubst %,build/lib/%.o,$(filter-out eval/generate,$(evaluate_parts)))
build/cuda/generate.o: eval/generate.c build/flags
	@mkdir -p $(@D)
	$(CC) $(FLAGS) $(CFLAGS) -DOC_CUDA -MMD -MP -c -o $@ $<
evaluate-cuda: build/eval/evaluate.o build/cuda/generate.o build/cuda/runcuda.o $(EVALUATE_GPU)
	$(NVCC) -o $@ $^ $(NVCC_LIBS)
evaluate-emu: build/eval/evaluate.o build/cuda/generate.o build/emu/runcuda.o $(EVALUATE_GPU)
	$(CXX) -o $@ $^ $(if $(OPENMP),-fopenmp) $(LIBS)
