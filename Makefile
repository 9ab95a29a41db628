# Each target creates the environment that it needs; a second run reuses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test slow check docs clean

demo: $(VENV)/.demo
	$(BIN)/wordsight demo --out demo

# One process per CPU, one thread each: a test rarely uses more, and together they take two thirds of the time.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

slow: $(VENV)/.slow
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --platform linux
	$(BIN)/mypy --platform darwin
	$(BIN)/mypy --platform win32
	$(BIN)/lint-imports

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wordsight needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[samples,report,fast]'
	touch $@

# The peers require torchvision, which may install another torch: they are installed without their dependencies.
$(VENV)/.test: pyproject.toml constraints.txt requirements-peers.txt | $(BIN)/python
	$(PIP) --editable '.[dev,samples,report,fast,log,onnx,heif,video]'
	$(PIP) --no-deps --requirement requirements-peers.txt
	touch $@ $(VENV)/.demo

# Daft and Ray are 390 MB, and only the tests on a cluster need them.
$(VENV)/.slow: $(VENV)/.test
	$(PIP) --editable '.[scale]'
	touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) demo runs site
