# make demo   the hub with the embedded queue and JupyterLab, no root, no scheduler
# make test   everything the tests need, then the tests
# make lint   ruff, mypy, import contracts
# make bench  figures beside the peers'

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile | head -n 4

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "On Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,test]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	@$(BIN)/batchhub demo $(DEMO_ARGS)

test: $(VENV)/.test
	@tests/install-debian
	@$(BIN)/python -c 'import gssapi' 2>/dev/null || $(KERBEROS) || echo "The tests with Kerberos need: pip install gssapi (with libkrb5-dev, gcc)"
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# There is no wheel of it for Linux, so it is built, with what tests/install-debian has brought.
KERBEROS := CFLAGS=-O0 $(BIN)/python -m pip install --quiet --disable-pip-version-check 'gssapi>=1.8'

# Most tests wait for daemons and browsers, so three at a time keep two cores busy. One file is one worker's: labs are shared within it.
# tests/conftest.py puts the long files first, which xdist would start last: they have few tests.
PYTEST_ARGS ?= -n 3 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test
	$(BIN)/python bench/proxy.py --quick
	$(BIN)/python bench/tunnel.py --quick
	$(BIN)/python bench/polling.py --quick

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
