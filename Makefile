# make setup   a virtual environment in .venv with the tested versions, and hrkd-cli in it
# make test    setup, then linters, types, packaging and tests
# make demo    setup, then hrkd demo: distill the built-in sample, export to int8, compare
# make docs    setup, then the documentation site, in site/
# make generated   rewrite what is made from the app: completions/ and docs/help.md

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: setup test lint types unit package docs demo generated clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hrkd-cli needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

test: lint types package unit

lint: setup
	$(BIN)/ruff check src tests benchmarks scripts runtime
	$(BIN)/ruff format --check src tests benchmarks scripts runtime
	$(BIN)/lint-imports --no-logo --no-cache

types: setup
	$(BIN)/mypy

unit: setup
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

package: setup
	rm -rf dist
	$(BIN)/python -m build --outdir dist . >/dev/null
	$(BIN)/python -m build --wheel --outdir dist runtime >/dev/null
	$(BIN)/twine check --strict dist/*
	$(BIN)/python scripts/check_runtime.py dist/hrkd_runtime-*.whl

demo: setup
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement demo-requirements.txt
	rm -rf demo
	$(BIN)/hrkd demo --out demo

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

generated: setup
	$(BIN)/python scripts/generated.py

clean:
	rm -rf $(VENV) demo dist build site
