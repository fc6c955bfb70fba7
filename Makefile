# opencoder.c: `make` builds the programs, `make test` tests them, `make help` lists the rest.
#
# What to know first: a program is the object of its own source, which has a main, linked with
# library objects: the same sources compiled with -DOC_LIBRARY, which leaves their mains out. All
# of it exists in three variants: objects in build/ with programs here, build/asan/ with the
# sanitizers, and build/neon/ for ARM by a cross compiler, for tests/test_neon.py.
#
#     make CC=clang                 another compiler
#     make OMP=0                    without OpenMP: everything works, on one thread
#     make MPI=1                    train on several machines, started by mpirun
#     make CFLAGS="-O1 -g"          in place of -O3 -march=native
#     make CI=true                  warnings are errors

.DEFAULT_GOAL := all
ifeq ($(origin CC),default)
CC := cc
endif
PYTHON ?= python3
CFLAGS ?= -O3 -march=native
CROSS ?= aarch64-linux-gnu-gcc
NEON := -O2 -march=armv8-a
SIMDE := -Og -mavx2 -mfma -mf16c
ASAN := -O1 -g1 -march=native -fsanitize=address,undefined -fno-sanitize-recover=all

# No contraction into fused multiply-adds: the sums of matmul.c are the same from every compiler.
# No errno, no traps: lets gcc turn sqrtf and selections into vector code, and changes no result.
# Vectors wider than the target's (cpu/plain.c) are no arguments of any real call: no -Wpsabi.
FLAGS := -std=c11 -ffp-contract=off -fno-math-errno -fno-trapping-math \
         -Wall -Wextra -Wshadow -Wpedantic -Wno-psabi
ifeq ($(CI),true)
FLAGS += -Werror
endif

# $(call links,PROGRAM,FLAGS) is "yes" when the compiler and the linker can do it, else empty.
links = $(shell printf '$(1)' | $(CC) $(2) -x c -o /dev/null - 2>/dev/null && echo yes)

OMP ?= 1
OMP_PROGRAM := \#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }
OPENMP := $(if $(filter-out 0,$(OMP)),$(call links,$(OMP_PROGRAM),-fopenmp))
# Without it, #pragma omp means nothing and must not be warned about.
FLAGS += $(if $(OPENMP),-fopenmp,-Wno-unknown-pragmas)
LIBS := -lm -pthread
ifeq ($(MPI),1)
CC := mpicc
FLAGS += -DOC_MPI
endif

# ---------------------------------------------------------------------------------- the programs
PROGRAMS := run train tokenizer convert evaluate
EXPORT := $(filter-out export/convert,$(basename $(wildcard export/*.c)))
run_main := run
CPU := quants matmul gemm attention $(basename $(wildcard cpu/*.c))
run_parts := $(CPU) tokenizer
train_main := train
train_parts := run $(CPU) tokenizer
tokenizer_main := tokenizer
tokenizer_parts := data/vocab data/pack data/texts data/bpe export/sentencepiece
convert_main := export/convert
convert_parts := $(EXPORT) quants tokenizer
EVAL := $(filter-out eval/evaluate eval/sandbox_main,$(basename $(wildcard eval/*.c)))
evaluate_main := eval/evaluate
evaluate_parts := $(EVAL) $(CPU) run tokenizer export/arena
test_parts := run train $(CPU) tokenizer

# A test is tests/test_NAME.c, or tests/test_NAME.py, which may start the C program of its name.
TEST_PROGRAMS := $(basename $(notdir $(wildcard tests/test_*.c)))
TESTS := $(sort $(TEST_PROGRAMS) $(basename $(notdir $(wildcard tests/test_*.py))) \
           badinput torture crash powerloss flips)
LONG_TESTS := full_layer full_layer_train hf_loads

# Bad input is given to the programs in build/asan, where the compiler has the sanitizers.
ifeq ($(call links,int main(void) { return 0; },$(ASAN)),yes)
SANITIZED := $(PROGRAMS:%=build/asan/%)
else
export OC_BAD_BIN := .
endif
include cuda.mk
include eval.mk
include refine.mk
include fuzz.mk
include cookbook.mk
TESTED := all emu refine build/plot build/sandbox build/torture.so \
          $(TEST_PROGRAMS:%=build/tests/%) $(SANITIZED) $(FUZZ_TARGETS:%=build/replay/%) \
          build/replay/broken $(if $(shell command -v $(CROSS) 2>/dev/null),neon)

# VARIANT: $(1) directory of the objects and tests, $(2) prefix of the programs, $(3) flags
define VARIANT
$(1)/%.o: %.c $(1)/flags
	@mkdir -p $$(@D)
	$$(CC) $$(FLAGS) $(3) -MMD -MP -c -o $$@ $$<
$(1)/lib/%.o: %.c $(1)/flags
	@mkdir -p $$(@D)
	$$(CC) $$(FLAGS) $(3) -DOC_LIBRARY -MMD -MP -c -o $$@ $$<
$(1)/tests/test_%: $(1)/tests/test_%.o $(test_parts:%=$(1)/lib/%.o)
	$$(CC) $$(FLAGS) $(3) -o $$@ $$^ $$(LIBS)
# Includes train.c, for its static functions.
$(1)/tests/test_ops: $(1)/tests/test_ops.o \
        $(patsubst %,$(1)/lib/%.o,$(filter-out train,$(test_parts)))
	$$(CC) $$(FLAGS) $(3) -o $$@ $$^ $$(LIBS)
# Holds the command line, so that other flags or another compiler rebuild everything. FLAGS are
# those of here: what refine.mk adds for its objects would come along to what they need.
$(1)/flags: FORCE
	@mkdir -p $$(@D)
	@echo '$$(CC) $(FLAGS) $(3)' | cmp -s - $$@ || echo '$$(CC) $(FLAGS) $(3)' > $$@
$(foreach p,$(PROGRAMS),$(call PROGRAM,$(1),$(2),$(3),$(p)))
-include $(wildcard $(1)/*.d $(1)/*/*.d $(1)/lib/*/*.d)
endef

# PROGRAM: as VARIANT, and $(4) the name of the program
define PROGRAM

$(2)$(4): $(1)/$($(4)_main).o $($(4)_parts:%=$(1)/lib/%.o)
	$$(CC) $$(FLAGS) $(3) -o $$@ $$^ $$(LIBS)
endef

$(eval $(call VARIANT,build,,$$(CFLAGS)))
$(eval $(call VARIANT,build/asan,build/asan/,$$(ASAN)))
$(eval $(call PROGRAM,build,build/,$$(CFLAGS),sandbox))
$(eval $(call PROGRAM,build/asan,build/asan/,$$(ASAN),sandbox))
build/neon/%: override CC := $(CROSS)
$(eval $(call VARIANT,build/neon,build/neon/,$$(NEON)))

# AVX-512 where there is none: the level compiled for an emulation, the rest as it is.
build/simde/avx512.o: cpu/avx512.c build/flags
	@mkdir -p $(@D)
	$(CC) $(FLAGS) $(SIMDE) -DOC_LIBRARY -DOC_SIMDE -MMD -MP -c -o $@ $<
build/simde/test_%: build/tests/test_%.o $(patsubst build/lib/cpu/avx512.o,build/simde/avx512.o,\
        $(test_parts:%=build/lib/%.o))
	$(CC) $(FLAGS) $(CFLAGS) -o $@ $^ $(LIBS)
-include build/simde/avx512.d

.PHONY: all neon help deps test test-long asan check format fixtures mutants clean FORCE
.SECONDARY:
FORCE:

# ------------------------------------------------------------------------------------- the goals
all: $(PROGRAMS) ## build run, train, tokenizer, convert and evaluate
	@echo 'OpenMP: $(or $(OPENMP),no)'

help: ## print this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { sub("%", "NAME", $$1); \
	    printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what the checks want and this machine lacks
	.ci/deps

test: $(TESTED) ## run every test; some minutes
	$(PYTHON) tests/run_tests.py $(TESTS)

test-%: $(TESTED) ## run one test and show its checks: make test-format
	$(PYTHON) tests/run_tests.py -v $(or $(filter test_$* $*,$(TESTS) $(LONG_TESTS)),\
	    $(error no test named $*: expected one of $(TESTS:test_%=%) $(LONG_TESTS)))

test-long: $(TESTED) ## every test, then full-width layers and -o hf against transformers
	OC_MINUTES=60 OC_KILLS=100 OC_FLIPS=10000 OC_TORTURE_ALL=1 OC_STATES=0 \
	    $(PYTHON) tests/run_tests.py --timeout 7200 \
	    $(TESTS) $(LONG_TESTS)

asan: $(TESTED) $(TEST_PROGRAMS:%=build/asan/tests/%) ## make test under ASan and UBSan
	OC_BIN=build/asan OC_TESTS=build/asan/tests \
	    $(PYTHON) tests/run_tests.py --timeout 1200 $(TESTS)

check: ## ceilings, line and function lengths, formatting, static checks
	$(PYTHON) tests/lint.py

format: ## apply .clang-format to every C file
	clang-format -i *.[ch] *.cu cuda/*.h cpu/*.[ch] export/*.[ch] data/*.[ch] eval/*.[ch] \
	    cookbook/*.c tests/*.[ch] tests/fuzz/*.[ch] bench/*.c

NEON_TESTS := $(addprefix build/neon/tests/test_,format int8 gemm attention run)
neon: build/neon/run $(NEON_TESTS) ## build what tests/test_neon.py runs, with a cross compiler

include bench/bench.mk
include tests/hard.mk

mutants: ## put one-line mistakes into a copy of the tree, each must fail a test; or ONLY=some
	$(PYTHON) tests/mutants.py $(ONLY)

fixtures: ## record the models of tests/data anew (needs torch, transformers, gguf)
	$(PYTHON) tests/make_fixtures.py
	$(PYTHON) tests/make_train_fixtures.py

clean: ## remove everything that make has made
	rm -rf build $(PROGRAMS) refine $(CUDA_PROGRAMS) $(CUDA_PROGRAMS:%=%-emu) \
	    evaluate-cuda evaluate-emu
