# The same commands for people and for CI. `make` alone lists them.
#
#   make quickstart                 train the example
#   make test PYTHON=python3.12     with another Python (it is used when .venv is made)

PYTHON ?= python3
BIN := .venv/bin
# Constraints hold for every install: an open range of torch could pull another, much larger build.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# One thread for each of the two processes of a test run; results do not depend on it.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help quickstart test test-slow check equality scale bench clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@echo "make quickstart   install into .venv and train examples/quickstart.yaml"
	@echo "make test         the test suite, but the slow proofs"
	@echo "make test-slow    the slow proofs"
	@echo "make check        format, lint, types, layers"
	@echo "make equality     every mode beside one process: docs/equality.md (minutes)"
	@echo "make scale        memory and traffic of large runs: docs/scale.md"
	@echo "make bench        speed beside a bare loop and other trainers"
	@echo "make clean        remove .venv, caches and builds; runs in output/ stay"

quickstart: .venv/installed
	$(BIN)/ironloom train examples/quickstart.yaml

test: .venv/installed-dev
	$(PYTEST) -n 2 --dist loadgroup -m "not slow"

test-slow: .venv/installed-dev
	$(PYTEST) -n 2 --dist loadgroup -m slow

check: .venv/installed-dev
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

# Where modes of tests/parallel/modes.py are tested.
EQUALITY := equality.py pipeline_equality.py pipeline_products.py accel_equality.py dream.py
equality: .venv/installed-dev
	$(PYTEST) -n 2 -m "slow or not slow" -o junit_family=xunit1 --junitxml output/equality.xml -k "a_mode or a_schedule" $(addprefix tests/parallel/test_,$(EQUALITY))
	$(BIN)/python tools/make_equality.py output/equality.xml

scale: .venv/installed
	$(BIN)/python benchmarks/scale.py --write

bench: .venv/installed-bench
	$(BIN)/python benchmarks/training.py

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: installing again only when what is to be installed has changed.
.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; choose one with PYTHON=" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/made pyproject.toml constraints.txt
	$(INSTALL) -e .
	@touch $@

.venv/installed-dev: .venv/made pyproject.toml constraints.txt
	$(INSTALL) -e ".[dev]"
	@touch $@ .venv/installed

.venv/installed-bench: .venv/made pyproject.toml constraints.txt
	$(INSTALL) -e ".[bench]"
	@touch $@ .venv/installed
