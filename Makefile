# Needs Python 3.11 or newer with pip; everything else goes into .venv. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python
# Each process would rewrite the assertions of all tests for their messages: what fails is run once more with them.
# One process more than cores, since some tests wait.
PARALLEL = -n $$($(RUN) -c "import os; print(os.cpu_count() + 1)") --dist worksteal --assert plain
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# the tests start hundreds of processes, each of which would compile the package
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo experiments test test-oldest quick fuzz kill-test onnx-zoo check lint types proto golden docs bench gpu-check gpu-bundle wheel clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.test  ## install and analyze models/lenet.prototxt
	$(BIN)/caffestat analyze models/lenet.prototxt

experiments: $(VENV)/.experiments  ## train one net four times, from other initialisations, and write a page about it
	$(RUN) models/experiments/train.py

test: $(VENV)/.test  ## install and run the tests, on all cores
	$(RUN) -m pytest $(PARALLEL) || { $(RUN) -m pytest --last-failed --last-failed-no-failures none; exit 1; }

quick: $(VENV)/.test  ## run the tests that take less than a minute together
	$(RUN) -m pytest $(PARALLEL) -m "not slow" || { $(RUN) -m pytest -m "not slow" --last-failed --last-failed-no-failures none; exit 1; }

test-oldest:  ## run the tests with the lowest versions that setup.cfg allows, in .venv-oldest (Python 3.11)
	$(MAKE) VENV=.venv-oldest .venv-oldest/.oldest
	.venv-oldest/bin/python -m pytest $(PARALLEL) -m "not slow"

fuzz: $(VENV)/.test  ## run damaged and hostile files through every command, for SECONDS=60
	$(RUN) -m tests.fuzz --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

kill-test: $(VENV)/.test  ## kill writers 1,000 times (KILLS), training 200 times (TRAIN_KILLS), and look for damage
	$(RUN) -m tests.fuzz.kill --kills $(or $(KILLS),1000)
	$(RUN) -m tests.fuzz.kill_training --kills $(or $(TRAIN_KILLS),200)

onnx-zoo: $(VENV)/.test  ## try the ONNX models of packages, which are downloaded, and write the table in docs/onnx.md
	$(RUN) -m tests.zoo $(if $(ONLY),--only $(ONLY))

check: lint types test  ## the one gate: lint, types, tests, documentation

lint: $(VENV)/.dev  ## look for mistakes and check that generated code is current
	$(RUN) -m ruff check .
	$(RUN) proto/generate.py --check

types: $(VENV)/.dev  ## check the type annotations
	$(RUN) -m mypy

proto: $(VENV)/.dev  ## write caffestat/schema/caffe_pb2.py from proto/caffe.proto
	$(RUN) proto/generate.py

golden: $(VENV)/.test  ## write the expected outputs of reports and commands anew; look at the diff
	$(RUN) -m pytest tests/report tests/cli tests/test_docs.py --refresh

docs: $(VENV)/.test  ## write the generated pages of docs/ anew
	$(RUN) docs/generate_layers.py
	$(RUN) docs/generate_ops.py
	$(RUN) docs/generate_checks.py

bench: $(VENV)/.dev  ## time the debug pass against torch, which has to be installed
	$(RUN) benchmarks/debug_pass.py

gpu-check: $(VENV)/.dev  ## golden cases and benchmark on the GPU
	$(RUN) benchmarks/gpu_check.py

gpu-bundle: $(VENV)/.test  ## write onnxruntime-gpu in pieces for a GPU machine without a network
	$(RUN) benchmarks/gpu_bundle.py make

wheel: $(VENV)/.dev  ## build dist/*.whl
	$(RUN) -m pip wheel --no-deps --wheel-dir dist .

# the lower bound of every requirement of setup.cfg, as a version to install
%/.oldest: %/.test
	$*/bin/python tests/oldest.py > $*/oldest.txt
	$*/bin/python -m pip install -q -r $*/oldest.txt
	@touch $@

clean:  ## remove what the other targets made
	rm -rf $(VENV) .venv-oldest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# .test has what runs and tests the package, .dev all of it; the stamps make later runs quick
$(VENV)/.test $(VENV)/.dev $(VENV)/.experiments: $(VENV)/.%: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "caffestat needs Python 3.11 or newer; say which: make PYTHON=python3.12")'
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV) >/dev/null || $(PYTHON) -m venv --without-pip $(VENV)
	@export PYTHONWARNINGS=ignore; \
	if $(RUN) -m pip --version >/dev/null 2>&1; then $(RUN) -m pip install -q -e '.[$*]'; \
	else $(PYTHON) -m pip --python $(RUN) install -q -e '.[$*]'; fi
	@touch $@
