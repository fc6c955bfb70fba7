# cuda.mk: the programs for the GPU, included by the Makefile.
#
# What to know first: P in runcuda, traincuda is P.cu with the C program whose engine or trainer it
# is, run.c or train.c, compiled with -DOC_CUDA. P.cu is compiled twice. nvcc makes ./P of it, for
# the devices of CUDA_ARCH; a C++ compiler makes ./P-emu, which runs every kernel on the CPU
# (cuda/emu.h), and a test with it. Neither needs a GPU to be built. Where something is missing,
# what needs it is left out with one line.
#
#     make cuda CUDA_ARCH=90        for one kind of device only
#     make cuda CUDA_SYNC=1         wait after every kernel: an error names the one that made it
#     make traincuda NCCL=1         train on several GPUs; with MPI=1 started by mpirun

NVCC ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
CUDA_ARCH ?= 80 90
CUDA_LIB := $(dir $(NVCC))../lib64
ifeq ($(origin CXX),default)
CXX := c++
endif

CUDA_PROGRAMS := runcuda traincuda
GPU_SOURCES := $(wildcard cuda/*.h) opencoder.h engine.h lora.h gguf.h files.h shards.h batch.h
HOST_FLAGS := $(if $(OPENMP),-fopenmp,-Wno-unknown-pragmas) -Wall -Wextra
comma := ,
space := $(subst ,, )
# Device code for each of CUDA_ARCH, and for the newest also as PTX, which later devices compile.
# Spilled registers and local memory are errors.
NVCC_FLAGS := -std=c++17 -O3 --threads 0 -Xptxas -warn-spills,-warn-lmem-usage,-Werror \
    -Xcompiler $(subst $(space),$(comma),$(strip $(HOST_FLAGS) -Wno-parentheses)) \
    $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a)$(comma)code=sm_$(a)) \
    -gencode arch=compute_$(lastword $(CUDA_ARCH))$(comma)code=compute_$(lastword $(CUDA_ARCH)) \
    $(if $(filter 1,$(CUDA_SYNC)),-DOC_CUDA_SYNC) $(if $(filter 1,$(NCCL)),-DOC_NCCL)
MPI_LIBS = $(addprefix -L,$(shell mpicc --showme:libdirs)) \
    $(addprefix -l,$(shell mpicc --showme:libs))
NVCC_LIBS = $(if $(OPENMP),-Xcompiler -fopenmp) -L$(CUDA_LIB) -lcublas -lm \
    $(if $(filter 1,$(NCCL)),-lnccl) $(if $(filter 1,$(MPI)),$(MPI_LIBS)) \
    -Xlinker -rpath -Xlinker $(abspath $(CUDA_LIB))
# Kernels read the same bytes as words and as numbers.
EMU_FLAGS := -std=c++17 -x c++ -DOC_EMU -fno-strict-aliasing -ffp-contract=off \
    -Wno-unknown-pragmas $(HOST_FLAGS) $(if $(filter true,$(CI)),-Werror)
CXX_PROGRAM := \#include <vector>
CXX_HERE := $(shell echo '$(CXX_PROGRAM)' | $(CXX) -std=c++17 -x c++ -c -o /dev/null - \
    2>/dev/null && echo yes)

ifneq ($(CXX_HERE),yes)
TEST_PROGRAMS := $(filter-out test_cuda test_traincuda,$(TEST_PROGRAMS))
TESTS := $(filter-out test_cuda test_traincuda,$(TESTS))
endif

# `make cuda` has nothing to say when all goes well.
ifneq ($(filter cuda,$(MAKECMDGOALS)),)
.SILENT:
endif
.PHONY: cuda emu bench-cuda bench-traincuda
ifneq ($(NVCC),)
cuda: $(CUDA_PROGRAMS) evaluate-cuda ## build them with nvcc; prints nothing when all goes well
	@:
else
cuda:
	@echo 'nvcc: no, $(CUDA_PROGRAMS) are not built; install the CUDA Toolkit or set NVCC'
endif
ifeq ($(CXX_HERE),yes)
emu: $(CUDA_PROGRAMS:%=%-emu) evaluate-emu ## build the same with kernels that run on the CPU
asan: $(CUDA_PROGRAMS:%=build/asan/%-emu)
else
emu:
	@echo 'C++17 compiler: no, runcuda-emu, traincuda-emu and their tests are left out; set CXX'
endif

build/cuda/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(NVCC) $(NVCC_FLAGS)' | cmp -s - $@ || echo '$(NVCC) $(NVCC_FLAGS)' > $@
build/cuda/%.o: %.cu $(GPU_SOURCES) build/cuda/flags
	$(NVCC) $(NVCC_FLAGS) -c -o $@ $<
build/emu/%.o: %.cu $(GPU_SOURCES) build/flags
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) -O2 -ftree-vectorize -c -o $@ $<
build/asan/emu/%.o: %.cu $(GPU_SOURCES) build/asan/flags
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) $(ASAN) -c -o $@ $<
build/cuda/%.o: %.c build/flags
	@mkdir -p $(@D)
	$(CC) $(FLAGS) $(CFLAGS) -DOC_CUDA -MMD -MP -c -o $@ $<
build/asan/cuda/%.o: %.c build/asan/flags
	@mkdir -p $(@D)
	$(CC) $(FLAGS) $(ASAN) -DOC_CUDA -MMD -MP -c -o $@ $<

# CUDA_PROGRAM: $(1) its name, $(2) the C program it is made of, $(3) its test
define CUDA_PROGRAM
$(1): build/cuda/$(2).o build/cuda/$(1).o $($(2)_parts:%=build/lib/%.o)
	$$(NVCC) -o $$@ $$^ $$(NVCC_LIBS)
$(1)-emu: build/cuda/$(2).o build/emu/$(1).o $($(2)_parts:%=build/lib/%.o)
	$$(CXX) -o $$@ $$^ $(if $(OPENMP),-fopenmp) $$(LIBS)
build/asan/$(1)-emu: build/asan/cuda/$(2).o build/asan/emu/$(1).o $($(2)_parts:%=build/asan/lib/%.o)
	$$(CXX) $$(ASAN) -o $$@ $$^ $(if $(OPENMP),-fopenmp) $$(LIBS)
build/tests/$(3): build/tests/$(3).o build/emu/$(1).o $(test_parts:%=build/lib/%.o)
	$$(CXX) -o $$@ $$^ $(if $(OPENMP),-fopenmp) $$(LIBS)
build/asan/tests/$(3): build/asan/tests/$(3).o build/asan/emu/$(1).o \
        $(test_parts:%=build/asan/lib/%.o)
	$$(CXX) $$(ASAN) -o $$@ $$^ $(if $(OPENMP),-fopenmp) $$(LIBS)
build/cuda/$(3): build/tests/$(3).o build/cuda/$(1).o $(test_parts:%=build/lib/%.o)
	$$(NVCC) -o $$@ $$^ $$(NVCC_LIBS)
endef
$(eval $(call CUDA_PROGRAM,runcuda,run,test_cuda))
$(eval $(call CUDA_PROGRAM,traincuda,train,test_traincuda))

# ------------------------------------------------------------------------------- with a GPU at hand
build/cuda/bench_gpu: build/bench/gpu_run.o build/cuda/runcuda.o $(CPU:%=build/lib/%.o)
	$(NVCC) -o $@ $^ $(NVCC_LIBS)
build/emu/bench_gpu: build/bench/gpu_run.o build/emu/runcuda.o $(CPU:%=build/lib/%.o)
	$(CXX) -o $@ $^ $(if $(OPENMP),-fopenmp) $(LIBS)
build/cuda/bench_traincuda: build/bench/traincuda_run.o build/cuda/traincuda.o \
    $(CPU:%=build/lib/%.o)
	$(NVCC) -o $@ $^ $(NVCC_LIBS)
build/emu/bench_traincuda: build/bench/traincuda_run.o build/emu/traincuda.o $(CPU:%=build/lib/%.o)
	$(CXX) -o $@ $^ $(if $(OPENMP),-fopenmp) $(LIBS)
bench-cuda: build/cuda/bench_gpu ## measure decode and prompts on the GPU against its limits
	$(PYTHON) bench/gpu_run.py
bench-traincuda: build/cuda/bench_traincuda train tokenizer ## measure training on the GPU: MFU
	$(PYTHON) bench/traincuda_run.py
