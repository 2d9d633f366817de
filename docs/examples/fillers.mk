# For your own repository: `include fillers.mk` in its Makefile, or copy the two targets.
# NETS are files or folders; FILLERS are options of `caffestat rewrite`.

NETS ?= models
FILLERS ?= --filler auto --bias constant:0

.PHONY: fillers-check fillers-fix

fillers-check:  ## fail when a filler is not what the policy says
	caffestat rewrite $(FILLERS) --recursive --check $(NETS)

fillers-fix:  ## change those fillers, and nothing else
	caffestat rewrite $(FILLERS) --recursive $(NETS)
