# Each target makes its environment from nothing and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test slow check clean

demo: $(VENV)/.demo
	$(BIN)/wordsight demo --out demo

test: $(VENV)/.test
	$(BIN)/python -m pytest

slow: $(VENV)/.slow
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --platform linux
	$(BIN)/mypy --platform darwin
	$(BIN)/mypy --platform win32
	$(BIN)/lint-imports

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wordsight needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[samples,report,fast]'
	touch $@

# the peers require torchvision, which may bring another torch: they come without what they ask for
$(VENV)/.test: pyproject.toml constraints.txt requirements-peers.txt | $(BIN)/python
	$(PIP) --editable '.[dev,samples,report,fast,log,onnx,heif,video]'
	$(PIP) --no-deps --requirement requirements-peers.txt
	touch $@ $(VENV)/.demo

# Daft and Ray are 390 MB, which only tests on a cluster need
$(VENV)/.slow: $(VENV)/.test
	$(PIP) --editable '.[scale]'
	touch $@

clean:
	rm -rf $(VENV) demo runs
