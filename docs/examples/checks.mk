# Include this in the Makefile of a repository of Caffe nets, or run it with `make -f checks.mk check-nets`.
#
#   NETS       the files and folders to check
#   BASELINE   findings that are known; `make baseline` writes it

NETS ?= .
BASELINE ?=
CAFFESTAT ?= caffestat

.PHONY: check-nets baseline

check-nets:
	$(CAFFESTAT) check --severity warning $(if $(BASELINE),--baseline $(BASELINE)) $(NETS)

baseline:
	$(CAFFESTAT) check --write-baseline "$(BASELINE)" $(NETS)
