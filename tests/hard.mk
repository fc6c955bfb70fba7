# hard.mk: what tries to break the programs, beyond `make test`; included by the Makefile.

# The library that lets calls fail, for tests/torture.py. It needs glibc; elsewhere that test is
# skipped.
build/torture.so build/coverage/torture.so: tests/torture.c build/flags
	@mkdir -p $(@D)
	-$(CC) -std=c11 -Wall -Wextra -O1 -shared -fPIC -o $@ $< -ldl

# Tools that take other programs than `make asan`, in a directory each. ThreadSanitizer and
# MemorySanitizer are clang's: its OpenMP tells the first who waits for whom (libarcher), gcc's does
# not; the second takes what comes from other libraries for memory that nobody wrote, and so goes
# without OpenMP's and those of refine. valgrind knows no AVX-512.
TOOL_CC ?= clang
TOOL_tsan := -O1 -g1 -march=native -fsanitize=thread
TOOL_msan := -O1 -g1 -march=x86-64-v3 -fno-openmp -Wno-unknown-pragmas -fsanitize=memory
TOOL_valgrind := -O1 -g1 -march=x86-64-v3
REFINE_FLAGS_tsan := $(REFINE_FLAGS)
REFINE_LIBS_tsan := $(REFINE_LIBS)
REFINE_FLAGS_valgrind := $(REFINE_FLAGS)
REFINE_LIBS_valgrind := $(REFINE_LIBS)
TOOL_TESTS := attention format gemm int8 loader sample shards
define TOOL

build/$(1)/data/refine.o $(REFINE_OBJECTS:%=build/$(1)/%): FLAGS += $$(REFINE_FLAGS_$(1))
build/$(1)/lib/data/parsers.o: build/data/functions.inc
build/$(1)/lib/eval/python.o: build/eval/server.inc
build/$(1)/refine: build/$(1)/data/refine.o $(REFINE_OBJECTS:%=build/$(1)/%)
	$$(CC) $$(FLAGS) $$(TOOL_$(1)) -o $$@ $$^ $$(REFINE_LIBS_$(1)) $$(LIBS)
build-$(1): $(PROGRAMS:%=build/$(1)/%) build/$(1)/refine $(TOOL_TESTS:%=build/$(1)/tests/test_%)
.PHONY: build-$(1)
endef
build/tsan/% build/msan/%: override CC := $(TOOL_CC)
build/msan/lib/cpu/levels.o: FLAGS += -Dkernels_amx=kernels_avx2 # it does not see what AMX stores
$(foreach tool,tsan msan valgrind,\
    $(eval $(call VARIANT,build/$(tool),build/$(tool)/,$$(TOOL_$(tool))))\
    $(eval $(call PROGRAM,build/$(tool),build/$(tool)/,$$(TOOL_$(tool)),sandbox))\
    $(eval $(call TOOL,$(tool))))

HAVE_TOOL_CC := $(shell command -v $(TOOL_CC) 2>/dev/null)
tsan: all refine $(if $(HAVE_TOOL_CC),build-tsan) ## ThreadSanitizer: programs at work; ONLY=some
	$(PYTHON) tests/tools.py tsan $(ONLY)
msan: all refine $(if $(HAVE_TOOL_CC),build-msan) ## MemorySanitizer; ONLY=some
	$(PYTHON) tests/tools.py msan $(ONLY)
valgrind: all refine build-valgrind ## valgrind over every program at work, leaks too
	$(PYTHON) tests/tools.py valgrind $(ONLY)

# `make test` by the programs of a tool, but for tests that start others: those for the GPU, for
# other CPUs, replays, the ordinary ones; and under ThreadSanitizer, which needs memory and a file
# for itself, but for those in which both are limited.
SUITE_msan := $(filter-out test_cuda test_traincuda test_fuzz test_neon test_avx512 test_ablation \
    test_cookbook torture powerloss,$(TESTS))
SUITE_tsan := $(filter-out badinput crash test_evaluate test_pycheck test_sandbox test_synth,\
    $(SUITE_msan))
SUITE_C := $(foreach t,$(filter-out test_cuda test_traincuda,$(TEST_PROGRAMS)),build/%/tests/$(t))
SUITE_BUILT := $(if $(HAVE_TOOL_CC),build-% build/%/sandbox $(SUITE_C))
suite-%: all refine $(SUITE_BUILT) ## make test by tsan or msan
	$(PYTHON) tests/tools.py $* --suite $(or $(SUITE_$*),$(error $@: expected suite-tsan, suite-msan))

# Each ends after so many minutes, if it has not tried everything by then, and says what it has.
MINUTES ?= 60
torture: faults kills powerloss flips ## the next four
faults: all refine build/torture.so ## each system call fails, once: MINUTES=60 at most
	OC_MINUTES=$(MINUTES) $(PYTHON) tests/torture.py --all
kills: all refine build/torture.so ## each writer is killed 100 times: MINUTES=60 at most
	OC_MINUTES=$(MINUTES) OC_KILLS=100 $(PYTHON) tests/crash.py
powerloss: all refine ## the power fails after each call that writes: MINUTES=60 at most
	OC_MINUTES=$(MINUTES) OC_STATES=0 $(PYTHON) tests/powerloss.py
flips: all ## 10,000 bits of each kind of file are flipped: MINUTES=60 at most
	OC_MINUTES=$(MINUTES) OC_FLIPS=10000 $(PYTHON) tests/flips.py

soak: all ## long runs, watched: TOKENS=10000 TURNS=1000 UPDATES=20000 KILLS=50 SLOWER=1.5
	$(PYTHON) tests/soak.py $(if $(TOKENS),--tokens $(TOKENS)) $(if $(TURNS),--turns $(TURNS)) \
	    $(if $(UPDATES),--updates $(UPDATES)) $(if $(KILLS),--kills $(KILLS)) \
	    $(if $(SLOWER),--slower $(SLOWER))

# The readers, counting what they run; the math is none of theirs, and would take its time.
COVERED := run convert tokenizer train
COVERED_TESTS := format loader shards tokenizer train
COVERED_FUZZ := config gguf hf json llama2c llama2c_tokenizer model safetensors sentencepiece \
    shards tokenizer torchzip
COVERED_FLAGS = -O0 -g --coverage -fprofile-update=atomic
$(CPU:%=build/coverage/lib/%.o): private COVERED_FLAGS = -O2 -march=native
$(eval $(call VARIANT,build/coverage,build/coverage/,$$(COVERED_FLAGS)))
build/coverage/lib/eval/python.o: build/eval/server.inc
$(eval $(call REPLAYS,build/coverage/replay,build/coverage,$$(COVERED_FLAGS)))
build/coverage/models:
	@mkdir -p $(@D)
	ln -s ../../models $@
build-coverage: $(COVERED:%=build/coverage/%) build/coverage/torture.so build/coverage/models \
        $(COVERED_TESTS:%=build/coverage/tests/test_%) $(COVERED_FUZZ:%=build/coverage/replay/%)
coverage: build-coverage ## which lines of the readers the tests run; all that never: SHOW=-v
	$(PYTHON) tests/coverage.py $(SHOW)

# Scripts as numbers, which C files include.
INCLUDED := build/eval/server.inc build/data/functions.inc

analyze: $(INCLUDED) ## gcc -fanalyzer, clang-tidy (.clang-tidy), cppcheck
	$(PYTHON) tests/analyze.py

portability: $(INCLUDED) ## every compiler, libc and machine here, as a table; or ONLY=
	tests/portability.sh $(ONLY)

.PHONY: torture faults kills powerloss flips analyze portability soak tsan msan valgrind coverage \
    build-coverage
