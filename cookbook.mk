# cookbook.mk: included by the Makefile: from raw source files to a model of one's own (cookbook/).

PLAN ?= plans/demo
.PHONY: cookbook
cookbook: all refine ## from source files to an evaluated chat model: PLAN=, CORPUS=DIR, DRY=1
	@$(PYTHON) cookbook/cookbook.py $(PLAN) $(if $(CORPUS),--corpus '$(CORPUS)') \
	    $(if $(HELD_OUT),--held-out '$(HELD_OUT)') $(if $(AGAINST),--against '$(AGAINST)') \
	    $(if $(UNTIL),--until $(UNTIL)) $(if $(filter-out 0,$(DRY)),--dry-run)
