# Sets itself up in .venv from a fresh clone; needs Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export JAX_PLATFORMS ?= cpu
# Tests train inside pytest's own process; `eca-jax train` asks glibc for huge pages by itself.
test test-slow: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: quickstart detect-quickstart test test-slow test-all lint docs clean

quickstart: $(VENV)/.installed  ## train an ECA-ResNet on real handwritten digits, in minutes on a laptop
	$(BIN)/eca-jax train quickstart --workdir=runs/quickstart

detect-quickstart: $(VENV)/.installed  ## train a small Mask R-CNN on drawn shapes, and draw what it finds
	$(BIN)/eca-jax train mask_rcnn_shapes --workdir=runs/shapes
	$(BIN)/python scripts/draw_shapes.py runs/shapes/pictures
	$(BIN)/eca-jax detect --weights runs/shapes runs/shapes/pictures --draw runs/shapes/found

test: $(VENV)/.installed-test  ## the quick tests
	$(BIN)/python -m pytest -n 2 --dist=worksteal -q -m "not slow"

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist=worksteal -q -m slow

test-all: test test-slow  ## every test

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/kubernetes-validate --strict --quiet $(filter-out %/monitoring.yaml,$(wildcard deploy/kubernetes/*.yaml))  # which is GKE's own kind

docs: $(VENV)/.installed-test  ## the documentation as a web site, in build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) runs

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "error: Python 3.11 or newer is needed; choose one with make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python requirements.txt pyproject.toml
	$(BIN)/pip install -q -r requirements.txt
	$(BIN)/pip install -q --no-deps -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.txt requirements-clients.txt
	$(BIN)/pip install -q -r requirements-test.txt
	$(BIN)/python -m venv $(VENV)/clients
	$(VENV)/clients/bin/pip install -q -r requirements-clients.txt
	@touch $@
