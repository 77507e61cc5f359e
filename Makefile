# Two commands from a bare checkout: make demo, make test. Asks for Python >= 3.11 and a package index, nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo lab test test-gpu check seeds clean

demo: .venv/installed
	$(BIN)/faal-lab demo

lab: .venv/installed
	$(BIN)/faal-lab lab

test: .venv/installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not browser"
	$(BIN)/python -m pytest -m browser  # alone: a page waits for its kernels by the clock

test-gpu: .venv/installed-dev
	$(BIN)/python -m pytest -m gpu

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_architecture.py

# The five-seed table of the README: about 20 minutes on two cores; goes on where it was interrupted.
seeds: .venv/installed
	$(BIN)/faal-lab demo --seeds 0 1 2 3 4

.venv/bin/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed; this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.venv/installed: .venv/bin/uv pyproject.toml
	$(BIN)/uv pip install --python $(BIN)/python -e .
	touch $@

.venv/installed-dev: .venv/installed pyproject.toml
	$(BIN)/uv pip install --python $(BIN)/python -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis
