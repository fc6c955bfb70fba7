# cookbook.mk: included by the Makefile: from raw source files to a model of one's own (cookbook/).

PLAN ?= plans/demo
COOKBOOK := $(PYTHON) cookbook/cookbook.py $(PLAN) $(if $(CORPUS),--corpus '$(CORPUS)') \
    $(if $(HELD_OUT),--held-out '$(HELD_OUT)') $(if $(AGAINST),--against '$(AGAINST)') \
    $(if $(TASKS),--tasks '$(TASKS)') \
    $(if $(UNTIL),--until $(UNTIL)) $(if $(filter-out 0,$(REDO)),--redo) \
    $(if $(filter-out 0,$(DRY)),--dry-run)
.PHONY: cookbook
cookbook: all refine build/plot ## from source files to a model: PLAN=plans/demo CORPUS=DIR DRY=1
	@$(COOKBOOK)

build/plot: cookbook/plot.c build/flags
	$(CC) $(FLAGS) $(CFLAGS) -MMD -MP -o $@ $< $(LIBS)
-include build/plot.d

ifneq ($(SANITIZED),)
SANITIZED += build/asan/plot
endif
build/asan/plot: cookbook/plot.c build/asan/flags
	$(CC) $(FLAGS) $(ASAN) -o $@ $< $(LIBS)
