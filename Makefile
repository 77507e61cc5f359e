# Two commands from a bare checkout: make demo, make test. Asks for Python >= 3.11 and a package index, nothing else.
PYTHON ?= python3
BIN := .venv/bin
# Without bytecode every process compiles 2,500 modules anew. Where this variable is set, nobody would ever write it.
unexport PYTHONDONTWRITEBYTECODE
export UV_COMPILE_BYTECODE = 1

PYTEST := $(BIN)/python -m pytest --durations=20
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
# After the others: a page gives a widget two seconds to load. A page that fails is tried once more; the end names it.
PAGES := -n auto --maxprocesses 2 --dist worksteal --reruns 1 -rR
# What a processor without AVX-512 computes with, on any processor.
AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2

.PHONY: demo lab test test-slow test-all test-avx2 test-gpu test-lowest check docs seeds reliability clean

demo: .venv/installed
	$(BIN)/faal-lab demo

lab: .venv/installed
	$(BIN)/faal-lab lab

test: .venv/installed-dev
	$(PYTEST) $(PARALLEL) -m "not slow and not browser"
	$(PYTEST) $(PAGES) -m "browser and not slow"

# What repeats by force what a quicker test holds: kills, whole lessons, the demo by papermill, every notebook in a browser.
test-slow: .venv/installed-dev
	$(PYTEST) $(PARALLEL) -m "slow and not browser"
	$(PYTEST) $(PAGES) -m "browser and slow"

test-all: test test-slow

# The quick tests, slow ones of numbers, all lessons and the demo by papermill, by the instruction set of most laptops and many servers.
test-avx2: .venv/installed-dev
	$(AVX2) $(PYTEST) $(PARALLEL) -m "not browser and (not slow or notebook or numbers)"

test-gpu: .venv/installed-dev
	$(BIN)/python -m pytest -m gpu

# The oldest versions that pyproject.toml allows, on the oldest Python.
test-lowest: .venv/bin/uv
	$(BIN)/uv venv --quiet --allow-existing --python 3.11 .venv-lowest
	$(BIN)/uv pip install --python .venv-lowest/bin/python --resolution lowest-direct -e '.[dev]'
	.venv-lowest/bin/python -m pytest --durations=20 $(PARALLEL) -m "not slow and not browser"
	.venv-lowest/bin/python -m pytest --durations=20 $(PAGES) -m "browser and not slow"

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_architecture.py

# The documentation site: docs/_build/html/index.html. A warning is an error; no network is needed.
docs: .venv/installed-dev
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "The site: docs/_build/html/index.html"

# The five-seed table of the digits: about 20 minutes on two cores; goes on where it was interrupted.
seeds: .venv/installed
	$(BIN)/faal-lab demo --seeds 0 1 2 3 4

# Every promise of safety as a figure, two rows at once. benchmarks/reliability.json, then the page.
reliability: .venv/installed-dev
	$(BIN)/python benchmarks/reliability.py
	$(BIN)/python docs/reliability_page.py

.venv/bin/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed; this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.venv/installed: .venv/bin/uv pyproject.toml
	$(BIN)/uv pip install --python $(BIN)/python -e .
	$(BIN)/python -m compileall -q faal_lab
	touch $@

.venv/installed-dev: .venv/installed pyproject.toml
	$(BIN)/uv pip install --python $(BIN)/python -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-lowest build docs/_build *.egg-info .pytest_cache .ruff_cache .hypothesis
