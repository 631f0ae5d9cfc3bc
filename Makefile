.DEFAULT_GOAL := help
.PHONY: help demo check test test-slow test-gpu bench coverage fusions accuracy model kernels recipes clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The very versions this project was tested with; `pip install .` alone takes the newest that fit.
CONSTRAINTS := -c constraints.txt

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "compress needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(CONSTRAINTS) -e '.[dev,genai,serve]'
	@touch $@

demo: $(VENV)/installed  ## install, then make and prove a 4-bit artifact of the built-in model
	$(BIN)/compress run recipes/quickstart.yaml --output artifacts/quickstart

check: $(VENV)/installed  ## ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: $(VENV)/installed  ## install if needed and run the tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed  ## more of the same on more architectures
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/installed  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

bench: $(VENV)/installed  ## seconds and memory against the peers, each in its own environment
	$(BIN)/python -m tests.bench.gptq_against_peers

coverage: $(VENV)/installed  ## architectures x tasks x targets against torch -> docs/coverage.md, an hour or more
	$(BIN)/python -m tests.coverage

fusions: $(VENV)/installed  ## ten transformers, what is fused of a layer for each target -> docs/fusions.md, ten minutes
	$(BIN)/python -m tests.fusion_table

accuracy: $(VENV)/installed  ## perplexity of every method x bits x group on ../shared/eval, and the peers' GPTQ; hours, taken up again
	$(BIN)/python -m tests.bench.accuracy
	$(BIN)/python -m tests.bench.accuracy --peers --methods gptq gptqmodel llmcompressor --seeds 5

model: $(VENV)/installed  ## remake the built-in model: text, tokenizer, training
	$(BIN)/python -m compressor.builtin.train

kernels: $(VENV)/installed  ## add the kernel table of the installed onnxruntime-gpu
	$(BIN)/python -m compressor.providers.extract

recipes: $(VENV)/installed  ## list the recipes
	$(BIN)/compress recipes

clean:  ## remove what was installed and made
	rm -rf $(VENV) artifacts tests/bench/.venvs .mypy_cache .ruff_cache .pytest_cache
