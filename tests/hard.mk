# hard.mk: what tries to break the programs, beyond `make test`; included by the Makefile.
#
#     make torture      every call of the system fails once; kill -9; full disks; flipped bits
#     make analyze      gcc -fanalyzer, clang-tidy (.clang-tidy), cppcheck
#     make tsan         the programs with POSIX threads under ThreadSanitizer
#     make memcheck     some of the tests under valgrind
#     make portability  every compiler, libc and machine that is here
#     make soak         long runs: memory, descriptors, speed; SOAK=seconds

# The library that lets calls fail. glibc only; where it cannot be built, the test is skipped.
build/torture.so: tests/torture.c build/flags
	-$(CC) -std=c11 -Wall -Wextra -O1 -shared -fPIC -o $@ $< -ldl

torture: TESTED_LONG = OC_TORTURE_ALL=1 OC_KILLS=100 OC_FLIPS=10000
torture: all refine build/torture.so ## each call fails, each writer is killed; an hour
	$(TESTED_LONG) $(PYTHON) tests/run_tests.py -v --timeout 7200 torture crash flips

analyze: build/eval/server.inc ## gcc -fanalyzer, clang-tidy and cppcheck over all sources
	$(PYTHON) tests/analyze.py

# gcc's OpenMP runtime is not known to ThreadSanitizer: one thread of it, and POSIX threads as usual.
tsan: ## refine and evaluate under ThreadSanitizer
	$(PYTHON) tests/threads.py

memcheck: all ## some runs of every program under valgrind
	$(PYTHON) tests/memcheck.py

portability: ## build and try with every compiler and for every machine that is here
	tests/portability.sh

SOAK ?= 600
soak: all ## long runs: flat memory, steady speed; SOAK=seconds
	$(PYTHON) tests/soak.py --seconds $(SOAK)

.PHONY: torture analyze tsan memcheck portability soak
