# Everything a developer runs. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := api,worker,local,dev
STAMP := $(VENV)/.installed

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(STAMP) ## Create .venv with everything that is needed (PYTHON=python3.12 picks the interpreter)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV). The first time takes some minutes: PyTorch is large."
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off \
		-c constraints.txt -e '.[$(EXTRAS)]' \
		| sed -un -e 's/^ *\(Downloading\|Using cached\|Processing\) /  /p' -e 's/^Installing collected.*/Unpacking .../p'
	@touch $@
	@echo "Ready."

.PHONY: demo
demo: setup ## Start everything, fine-tune a small model and show before and after
	@$(BIN)/grouptune demo

.PHONY: up
up: setup ## Start Postgres, Valkey, the API and a worker; Ctrl-C stops them all
	@$(BIN)/grouptune up

.PHONY: test
test: setup lint typecheck ## Lint, type-check and run the tests (ARGS='-k leases' picks some)
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

.PHONY: lint
lint: setup ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "Not formatted as ruff would: run make format" >&2; exit 1; }

.PHONY: format
format: setup ## Format the code and apply the safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: typecheck
typecheck: setup ## Check types
	@$(BIN)/mypy

.PHONY: clean
clean: ## Remove .venv, caches and build products; never the data of an installation
	@rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find app worker migrations tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
