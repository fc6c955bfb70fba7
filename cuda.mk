# cuda.mk: the programs for the GPU, included by the Makefile.
#
# What to know first: runcuda.cu is compiled twice. nvcc makes ./runcuda of it, for the devices of
# CUDA_ARCH; a C++ compiler makes ./runcuda-emu, which runs every kernel on the CPU (cuda/emu.h),
# and tests/test_cuda.c with it. Neither needs a GPU to be built. Where something is missing, what
# needs it is left out with one line.
#
#     make cuda CUDA_ARCH=90        for one kind of device only
#     make cuda CUDA_SYNC=1         wait after every kernel: an error names the one that made it

NVCC ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
CUDA_ARCH ?= 80 90
CUDA_LIB := $(dir $(NVCC))../lib64
ifeq ($(origin CXX),default)
CXX := c++
endif

GPU_SOURCES := runcuda.cu $(wildcard cuda/*.h) opencoder.h engine.h lora.h gguf.h files.h
HOST_FLAGS := $(if $(OPENMP),-fopenmp,-Wno-unknown-pragmas) -Wall -Wextra
comma := ,
space := $(subst ,, )
# Device code for each of CUDA_ARCH, and for the newest also as PTX, which later devices compile.
# Spilled registers and local memory are errors.
NVCC_FLAGS := -std=c++17 -O3 --threads 0 -Xptxas -warn-spills,-warn-lmem-usage,-Werror \
    -Xcompiler $(subst $(space),$(comma),$(strip $(HOST_FLAGS) -Wno-parentheses)) \
    $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a)$(comma)code=sm_$(a)) \
    -gencode arch=compute_$(lastword $(CUDA_ARCH))$(comma)code=compute_$(lastword $(CUDA_ARCH)) \
    $(if $(filter 1,$(CUDA_SYNC)),-DOC_CUDA_SYNC)
NVCC_LIBS = $(if $(OPENMP),-Xcompiler -fopenmp) -L$(CUDA_LIB) -lcublas -lm \
    -Xlinker -rpath -Xlinker $(abspath $(CUDA_LIB))
# Kernels read the same bytes as words and as numbers.
EMU_FLAGS := -std=c++17 -x c++ -DOC_EMU -fno-strict-aliasing -ffp-contract=off \
    -Wno-unknown-pragmas $(HOST_FLAGS) $(if $(filter true,$(CI)),-Werror)
CXX_PROGRAM := \#include <vector>
CXX_HERE := $(shell echo '$(CXX_PROGRAM)' | $(CXX) -std=c++17 -x c++ -c -o /dev/null - \
    2>/dev/null && echo yes)

ifneq ($(CXX_HERE),yes)
TEST_PROGRAMS := $(filter-out test_cuda,$(TEST_PROGRAMS))
TESTS := $(filter-out test_cuda,$(TESTS))
endif

# `make cuda` has nothing to say when all goes well.
ifneq ($(filter cuda,$(MAKECMDGOALS)),)
.SILENT:
endif
.PHONY: cuda emu bench-cuda
ifneq ($(NVCC),)
cuda: runcuda evaluate-cuda ## build them with nvcc; needs no GPU, prints nothing when all is well
	@:
else
cuda:
	@echo 'nvcc: no, runcuda and evaluate-cuda are not built; install the CUDA Toolkit or set NVCC'
endif
ifeq ($(CXX_HERE),yes)
emu: runcuda-emu evaluate-emu ## build them with kernels that run on the CPU
asan: build/asan/runcuda-emu
else
emu:
	@echo 'C++17 compiler: no, runcuda-emu is not built and test_cuda is skipped; set CXX'
endif

build/cuda/runcuda.o: $(GPU_SOURCES) build/cuda/flags
	$(NVCC) $(NVCC_FLAGS) -c -o $@ $<
build/cuda/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(NVCC) $(NVCC_FLAGS)' | cmp -s - $@ || echo '$(NVCC) $(NVCC_FLAGS)' > $@
build/cuda/run.o build/asan/cuda/run.o: build/%cuda/run.o: run.c build/%flags
	@mkdir -p $(@D)
	$(CC) $(FLAGS) $(if $*,$(ASAN),$(CFLAGS)) -DOC_CUDA -MMD -MP -c -o $@ $<
runcuda: build/cuda/run.o build/cuda/runcuda.o $(run_parts:%=build/lib/%.o)
	$(NVCC) -o $@ $^ $(NVCC_LIBS)

# The same with the emulation; $* is empty or "asan/".
build/emu/runcuda.o build/asan/emu/runcuda.o: build/%emu/runcuda.o: $(GPU_SOURCES) build/%flags
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(if $*,$(ASAN),-O2 -ftree-vectorize) -c -o $@ $<
runcuda-emu build/asan/runcuda-emu: %runcuda-emu:
	$(CXX) $(if $(findstring asan,$@),$(ASAN)) -o $@ $^ $(if $(OPENMP),-fopenmp) $(LIBS)
runcuda-emu: build/cuda/run.o build/emu/runcuda.o $(run_parts:%=build/lib/%.o)
build/asan/runcuda-emu: build/asan/cuda/run.o build/asan/emu/runcuda.o \
    $(run_parts:%=build/asan/lib/%.o)
build/tests/test_cuda build/asan/tests/test_cuda: build/%tests/test_cuda: \
        build/%tests/test_cuda.o build/%emu/runcuda.o
	$(CXX) $(if $*,$(ASAN)) -o $@ $^ $(if $(OPENMP),-fopenmp) $(LIBS)
build/tests/test_cuda: $(test_parts:%=build/lib/%.o)
build/asan/tests/test_cuda: $(test_parts:%=build/asan/lib/%.o)
build/cuda/test_cuda: build/tests/test_cuda.o build/cuda/runcuda.o $(test_parts:%=build/lib/%.o)
	$(NVCC) -o $@ $^ $(NVCC_LIBS)

# ------------------------------------------------------------------------------- with a GPU at hand
build/cuda/bench_gpu: build/bench/gpu_run.o build/cuda/runcuda.o $(CPU:%=build/lib/%.o)
	$(NVCC) -o $@ $^ $(NVCC_LIBS)
build/emu/bench_gpu: build/bench/gpu_run.o build/emu/runcuda.o $(CPU:%=build/lib/%.o)
	$(CXX) -o $@ $^ $(if $(OPENMP),-fopenmp) $(LIBS)
bench-cuda: build/cuda/bench_gpu ## measure decode and prompts on the GPU against its limits
	$(PYTHON) bench/gpu_run.py
