# hard.mk: what tries to break the programs, beyond `make test`; included by the Makefile.

# The library that lets calls fail, for tests/torture.py. It needs glibc; elsewhere that test is
# skipped.
build/torture.so: tests/torture.c build/flags
	-$(CC) -std=c11 -Wall -Wextra -O1 -shared -fPIC -o $@ $< -ldl

# Scripts as numbers, which C files include.
INCLUDED := build/eval/server.inc build/data/functions.inc

torture: all refine build/torture.so ## each system call fails, each writer is killed; an hour
	OC_TORTURE_ALL=1 OC_KILLS=100 OC_FLIPS=10000 \
	    $(PYTHON) tests/run_tests.py -v --timeout 7200 torture crash flips

analyze: $(INCLUDED) ## gcc -fanalyzer, clang-tidy (.clang-tidy), cppcheck
	$(PYTHON) tests/analyze.py

portability: $(INCLUDED) ## every compiler, libc and machine that is here, as a table
	tests/portability.sh

.PHONY: torture analyze portability
