# Everything a person or CI runs. Each target is enough on a fresh machine with Python 3.11 or newer and a C compiler:
# it makes .venv, installs into it, and fetches the default base model. A second run installs nothing again.
#
#   make demo       attach a sample document, ask questions without and with the adapter
#   make run        the terminal UI
#   make test       all that CI runs: format, lint, types, import rules, every test
#   make check      the same
#   make quick      only the fast tests that need no model
#   make format     let ruff rewrite the code
#   make bench      measure this machine, write docs/benchmarks.md
#   make install    what demo and run need
#   make clean      remove .venv, caches and build output; fetched models and adapters stay
#
# Variables:
#   PYTHON          the Python to make .venv with
#   EXTRA           cpu (default) or gpu: which onnxruntime; never change it on an existing .venv, run `make clean` before
#   CMAKE_ARGS      handed to llama.cpp's build, e.g. CMAKE_ARGS=-DGGML_CUDA=on
#   TORCH_SPEC      the torch that parity tests compare with; the plain wheel for Linux brings CUDA (several GB)
#   TORCH_PIP_ARGS  more words for that `pip install`, e.g. the --index-url of PyTorch's CPU wheels
#   PYTEST_ARGS     more words for pytest, e.g. PYTEST_ARGS="-k lora -x"

PYTHON ?= $(firstword $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python; done))
VENV ?= .venv
EXTRA ?= cpu
TORCH_SPEC ?= torch==2.13.0
TORCH_PIP_ARGS ?=
PYTEST_ARGS ?=
BASE ?= smollm2-135m-instruct

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install install-dev model demo run test check quick lint format bench clean

help:
	@sed -n 's/^#   \(make .*\)/\1/p' Makefile

# --- installing ---------------------------------------------------------------------------------------------------

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or say make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The first time, llama.cpp is compiled: 3 to 10 minutes. pip keeps the result for other folders.
$(VENV)/.installed: $(VENV)/.made pyproject.toml setup.py
	$(PIP) install --editable '.[$(EXTRA)]'
	@touch $@

# torch goes first and alone, so that TORCH_PIP_ARGS touches nothing else.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install $(TORCH_PIP_ARGS) '$(TORCH_SPEC)'
	$(PIP) install --editable '.[$(EXTRA),train,dev]'
	@touch $@

install: $(VENV)/.installed model

install-dev: $(VENV)/.installed-dev model

# Checks the sha256, too; does nothing when the right file is there.
model: $(VENV)/.installed
	$(BIN)/localhyper models pull $(BASE)

# --- using --------------------------------------------------------------------------------------------------------

demo: install
	$(BIN)/localhyper demo

run: install
	$(BIN)/localhyper tui

bench: install-dev
	$(BIN)/python -m tests.benchmarks

# --- checking -----------------------------------------------------------------------------------------------------

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint model
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: test

quick: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow and not native and not torch and not parity" $(PYTEST_ARGS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
