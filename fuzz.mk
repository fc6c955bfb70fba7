# fuzz.mk: fuzzing of every reader, included by the Makefile; tests/fuzz/fuzz.h says how it works.
#
# What to know first: tests/fuzz/NAME.c is a target. build/fuzz/NAME has libFuzzer in it and needs
# clang, build/afl/NAME is for AFL++ (afl-clang-fast, afl-fuzz); build/replay/NAME only gives the
# inputs that are there to the target, is made by $(CC) of the objects in build/asan (or those in
# build where there are no sanitizers), and is what `make test` runs. An input that breaks something
# goes to `found` beside the target.
#
#     make fuzz TIME=60                      every target, 60 seconds each
#     make fuzz TIME=600 TARGET=gguf         one of them
#     make fuzz TIME=0 RUNS=1000000          so many inputs each, however long that takes
#     make fuzz FUZZ_CC=afl-clang-fast       by AFL++

FUZZ_CC ?= clang
FUZZ_OUT := build/$(if $(findstring afl,$(FUZZ_CC)),afl,fuzz)
export AFL_QUIET := 1
TIME ?= 60
FUZZ_TARGETS := $(filter-out fuzz replay broken,$(basename $(notdir $(wildcard tests/fuzz/*.c))))
TARGET ?= $(FUZZ_TARGETS)
FUZZ_SAN := -O1 -g1 -march=native -fsanitize=address,undefined -fno-sanitize-recover=all
FUZZ_FLAGS = $(filter-out -fopenmp,$(FLAGS)) -Wno-unknown-pragmas $(REFINE_FLAGS) \
    -DREFINE_BLOCK=256 $(FUZZ_SAN)
# The products in cpu/ read what was checked before; with sanitizers, clang needs minutes for them.
$(FUZZ_OUT)/lib/cpu/%.o: FUZZ_SAN := -O2 -march=native
FUZZ_WRAP := $(foreach f,exit malloc calloc realloc free mmap munmap,-Wl,--wrap=$(f))
FUZZ_LINK = $(FUZZ_WRAP) $(REFINE_LIBS) $(LIBS)
FUZZ_HERE := $(shell echo 'int LLVMFuzzerTestOneInput(const char *p, long n) { return !p || n; }' \
    | $(FUZZ_CC) -fsanitize=fuzzer -x c -o /dev/null - 2>/dev/null && echo yes)

# What a target needs is taken out of an archive of all that has no main: that of ./refine, or else
# that of the other programs.
FUZZ_PARTS := $(addprefix lib/,$(addsuffix .o,run train tokenizer $(CPU) $(EXPORT) $(EVAL) \
    $(filter data/%,$(tokenizer_parts))))
FUZZ_REFINE := archive crawl document instruct lines notebook pii signals web
fuzz_parts = $(if $(filter $(2),$(FUZZ_REFINE)),$(1)/refine.a,$(1)/parts.a)

$(FUZZ_OUT)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(FUZZ_CC) $(FUZZ_FLAGS)' | cmp -s - $@ || echo '$(FUZZ_CC) $(FUZZ_FLAGS)' > $@
$(FUZZ_OUT)/lib/%.o: %.c $(FUZZ_OUT)/flags
	@mkdir -p $(@D)
	$(FUZZ_CC) $(FUZZ_FLAGS) $(if $(findstring /cpu/,$@),,-fsanitize=fuzzer-no-link) -DOC_LIBRARY \
	    -MMD -MP -c -o $@ $<
$(FUZZ_OUT)/lib/eval/python.o: build/eval/server.inc
$(FUZZ_OUT)/lib/data/parsers.o: build/data/functions.inc
$(FUZZ_OUT)/parts.a: $(FUZZ_PARTS:%=$(FUZZ_OUT)/%)
$(FUZZ_OUT)/refine.a: $(REFINE_OBJECTS:%=$(FUZZ_OUT)/%)
$(FUZZ_OUT)/%.a:
	rm -f $@
	ar qcs $@ $^
$(FUZZ_OUT)/tests/%.o: tests/fuzz/%.c $(FUZZ_OUT)/flags
	@mkdir -p $(@D)
	$(FUZZ_CC) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -MMD -MP -c -o $@ $<
.SECONDEXPANSION:
$(FUZZ_OUT)/%: $(FUZZ_OUT)/tests/%.o $(FUZZ_OUT)/tests/fuzz.o $$(call fuzz_parts,$(FUZZ_OUT),$$*)
	$(FUZZ_CC) $(FUZZ_SAN) -fsanitize=fuzzer -o $@ $^ $(FUZZ_LINK)

# REPLAYS: $(1) directory of the programs, $(2) of the objects they take, $(3) flags
define REPLAYS
$(1)/parts.a: $(FUZZ_PARTS:%=$(2)/%)
$(1)/refine.a: $(REFINE_OBJECTS:%=$(2)/%)
$(1)/%.a:
	@mkdir -p $$(@D)
	rm -f $$@
	ar qcs $$@ $$^
$(1)/tests/%.o: tests/fuzz/%.c $(2)/flags
	@mkdir -p $$(@D)
	$$(CC) $$(FLAGS) $$(REFINE_FLAGS) $(3) -MMD -MP -c -o $$@ $$<
$(1)/%: $(1)/tests/%.o $(1)/tests/fuzz.o $(1)/tests/replay.o $$$$(call fuzz_parts,$(1),$$$$*)
	$$(CC) $$(FLAGS) $(3) -o $$@ $$^ $$(FUZZ_LINK)
-include $$(wildcard $(1)/tests/*.d)
endef
$(eval $(call REPLAYS,build/replay,$(if $(SANITIZED),build/asan,build),\
    $(if $(SANITIZED),$(ASAN),$(CFLAGS))))
-include $(wildcard $(FUZZ_OUT)/tests/*.d $(FUZZ_OUT)/lib/*.d $(FUZZ_OUT)/lib/*/*.d)

.PHONY: fuzz fuzz-build
ifeq ($(FUZZ_HERE),yes)
fuzz-build: $(TARGET:%=$(FUZZ_OUT)/%) ## build the fuzz targets
fuzz: fuzz-build ## fuzz every reader for TIME=60 seconds; or one: TARGET=gguf
	$(PYTHON) tests/fuzz.py --built $(FUZZ_OUT) --seconds $(TIME) $(RUNS:%=--runs %) $(TARGET)
else
fuzz fuzz-build:
	@echo '$(FUZZ_CC) -fsanitize=fuzzer: no, nothing is fuzzed; clang and its compiler-rt have it'
endif
