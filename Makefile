# `make demo` and `make test` need nothing but a Python of 3.12 or newer: each makes .venv itself.
# Another Python: make PYTHON=/some/python test

PYTHON ?=
PEERS_PYTHON ?= $(PYTHON)
TEST_ARGS ?= -n 2 --dist worksteal
BENCH_ARGS ?=

BIN := .venv/bin
RUN := .venv/.installed
DEV := .venv/.installed-dev
PEERS := .venv-peers/.installed
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

# $(call make_venv,FOLDER,PYTHON): keeps FOLDER when its Python is new enough, else makes it anew.
# PYENV_VERSION=system is the last resort, for a pyenv that has none of .python-version.
define make_venv
	@set -u; new_enough='import sys; sys.exit(sys.version_info < (3, 12))'; \
	if $(1)/bin/python -m pip --version >/dev/null 2>&1 && $(1)/bin/python -c "$$new_enough"; \
	then exit 0; fi; \
	for system in "" system; do \
	  if [ -n "$$system" ]; then export PYENV_VERSION=system; fi; \
	  for python in $(if $(2),"$(2)",python3 python3.14 python3.13 python3.12 python); do \
	    if "$$python" -c "$$new_enough" >/dev/null 2>&1; then \
	      echo "Making $(1) with $$("$$python" --version) ($$python)"; \
	      exec "$$python" -m venv --clear $(1); \
	    fi; \
	  done; \
	done; \
	echo "probmf needs Python 3.12 or newer." >&2; \
	echo "Tried: $(or $(2),python3 python3.14 python3.13 python3.12 python)." >&2; \
	echo "Install one, or name it: make PYTHON=/path/to/python3.12 $(or $(MAKECMDGOALS),setup)" >&2; \
	exit 1
endef

.PHONY: help setup demo test check package format bench calibration docs clean

help: ## Show the targets
	@sed -n 's/^\([a-z]*\):[^#]*## /\1|/p' Makefile | while IFS='|' read -r target what; do \
	  printf '  make %-12s %s\n' "$$target" "$$what"; done

$(RUN): pyproject.toml constraints.txt
	$(call make_venv,.venv,$(PYTHON))
	@echo "Installing probmf into .venv (under a minute, once)"
	@$(BIN)/python $(PIP_INSTALL) --constraint constraints.txt --editable .
	@touch $@

$(DEV): $(RUN)
	@echo "Installing the tools for tests, checks and docs into .venv (under a minute, once)"
	@$(BIN)/python $(PIP_INSTALL) --constraint constraints.txt --editable ".[test,dev,docs]"
	@touch $@

$(PEERS): benchmarks/peers.txt
	$(call make_venv,.venv-peers,$(PEERS_PYTHON))
	@echo "Installing the packages we are compared with into .venv-peers"
	@.venv-peers/bin/python $(PIP_INSTALL) --requirement benchmarks/peers.txt
	@touch $@

setup: $(DEV) ## Make .venv with everything in it

demo: $(RUN) ## Fit, evaluate and recommend on simulated ratings; writes demo/
	$(BIN)/probmf demo --out demo

test: $(DEV) ## Run the tests
	$(BIN)/python -m pytest $(TEST_ARGS) -m "not slow and not calibration and not bench"

check: $(DEV) ## Check format, lint, types and docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html

# First the source distribution, from which pip builds a wheel of its own, then our wheel.
package: ## Build both distributions, and try each in an empty environment
	rm -rf dist build/package
	@mkdir -p build
	$(call make_venv,build/package,$(PYTHON))
	build/package/bin/python $(PIP_INSTALL) "hatchling>=1.27"
	build/package/bin/python -m hatchling build -d dist
	build/package/bin/python $(PIP_INSTALL) --constraint constraints.txt dist/probmf-*.tar.gz
	cd build && package/bin/python -W ignore ../tests/installed.py
	build/package/bin/python $(PIP_INSTALL) --no-deps --force-reinstall dist/probmf-*.whl
	cd build && package/bin/python -W ignore ../tests/installed.py

format: $(DEV) ## Format the code and mend what lint can mend
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(DEV) $(PEERS) ## Measure against other packages
	PEERS_VENV=.venv-peers $(BIN)/python benchmarks/run.py $(BENCH_ARGS)

calibration: $(DEV) ## Run the long tests: slow and calibration
	$(BIN)/python -m pytest $(TEST_ARGS) -m "slow or calibration"

docs: $(DEV) ## Build the docs
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean: ## Remove what the targets made, environments included
	rm -rf .venv .venv-peers demo docs/_build build dist .pytest_cache .mypy_cache .ruff_cache \
	  .hypothesis
	find probmf tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
