# Every habit of this project is a target here; CI runs targets only. `make` prints them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

# The first Python 3.12 or newer: on PATH, of pyenv, of uv.
PYTHON := $(shell for p in python3.12 python3.13 python3.14 python3 python $$HOME/.pyenv/versions/3.1[2-9]*/bin/python \
	"$$(uv python find '>=3.12' 2>/dev/null)"; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

BIN := .venv/bin
CACHE := $(or $(FLORIN_CACHE),$(HOME)/.cache/florin)
CONTRACTS := $(shell find protos -type f)
SERVICE ?=
PORT ?= 8443

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z][a-z0-9_-]*:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: .venv/.ready build/gen/.ready build/.bytecode ## A virtual environment with everything pinned, the stubs, .venv/bin/florin

.venv/.ready: requirements.lock pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "Florin needs Python 3.12 or newer with venv and pip; none was found." \
	  "Install it (Debian: apt-get install python3.12 python3.12-venv; or: pyenv install 3.12; or: uv python install 3.12)." >&2; exit 1; }
	@echo "setting up .venv with $(PYTHON)"
	@rm -rf .venv
	@"$(PYTHON)" -m venv .venv
	@mkdir -p build
	@# uv installs the rest some ten times as fast as pip; it comes from the same lock, with its hashes.
	@awk '/^uv==/ {on=1} on {print} on && !/\\$$/ {exit}' requirements.lock > build/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r build/uv.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps -e .
	@touch $@

build/gen/.ready: .venv/.ready $(CONTRACTS)
	@$(BIN)/python protos/generate.py
	@touch $@

# uv leaves what it installs uncompiled. Where PYTHONDONTWRITEBYTECODE is set (containers set it) each of the mesh's
# processes would compile it all again at every start, two seconds of CPU each. So what they import is compiled here.
build/.bytecode: build/gen/.ready
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c "import accounts.app, transactions.app, compliance.app, notifications.app, \
	  local.demo, local.live, local.migrate, local.rest, local.verify"
	@touch $@

.PHONY: gen
gen: .venv/.ready ## The stubs and descriptors from protos/ (build/gen)
	@$(BIN)/python protos/generate.py
	@touch build/gen/.ready

.PHONY: lock
lock: .venv/.ready ## requirements.lock anew from pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.12 \
	  --group dev pyproject.toml -o requirements.lock

.PHONY: up
up: setup ## The whole mesh on this machine, until Ctrl-C (PORT=8443)
	@$(BIN)/florin up --port $(PORT)

.PHONY: demo
demo: setup ## The main job: a payroll file through a fresh mesh, with everything that can go wrong in it
	@$(BIN)/florin demo

.PHONY: test
test: setup ## All tests that need Python alone (SERVICE=accounts for one service's)
	@if [ -n "$(SERVICE)" ]; then \
	  $(BIN)/pytest -q tests/unit/$(SERVICE) tests/integration/$(SERVICE); \
	else \
	  $(BIN)/pytest -q tests/unit tests/tidy tests/integration tests/contract tests/e2e tests/security; \
	fi

.PHONY: lint
lint: setup ## Style, types, and the direction of imports
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy meshkit accounts transactions compliance notifications local
	@$(BIN)/lint-imports
