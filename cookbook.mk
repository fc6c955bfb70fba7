# cookbook.mk: included by the Makefile: from raw source files to a model of one's own (cookbook/).

PLAN ?= plans/demo
GIVEN := $(if $(CORPUS),--corpus '$(CORPUS)') \
    $(if $(HELD_OUT),--held-out '$(HELD_OUT)') $(if $(AGAINST),--against '$(AGAINST)') \
    $(if $(TASKS),--tasks '$(TASKS)') $(if $(filter-out 0,$(DRY)),--dry-run)
COOKBOOK := $(PYTHON) cookbook/cookbook.py $(PLAN) $(GIVEN) \
    $(if $(UNTIL),--until $(UNTIL)) $(if $(filter-out 0,$(REDO)),--redo)
ABLATION := $(PYTHON) cookbook/ablation.py $(GIVEN) $(if $(SEEDS),--seeds $(SEEDS)) \
    $(if $(COPY),--copy '$(COPY)')
ABLATIONS := $(wildcard plans/ablations/*)
.PHONY: cookbook ablation ablations
cookbook: all refine build/plot ## from source files to a model: PLAN=plans/demo CORPUS=DIR DRY=1
	@$(COOKBOOK)
ablation: all refine build/plot ## what a part of the recipe is worth: NAME=dedup SEEDS=2 DRY=1
	@$(ABLATION) $(if $(NAME),plans/ablations/$(NAME),$(error NAME: not given, expected one of \
	    $(notdir $(ABLATIONS))))
ablations: all refine build/plot ## all of them; half an hour
	@$(ABLATION) $(ABLATIONS)

build/plot: cookbook/plot.c build/flags
	$(CC) $(FLAGS) $(CFLAGS) -MMD -MP -o $@ $< $(LIBS)
-include build/plot.d

ifneq ($(SANITIZED),)
SANITIZED += build/asan/plot
endif
build/asan/plot: cookbook/plot.c build/asan/flags
	$(CC) $(FLAGS) $(ASAN) -o $@ $< $(LIBS)
