# Every target sets up what it needs in .venv (Python 3.11+, Java 17+); `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin
DEMO_DIR ?= demo
JOBS ?= 2
export PYTHON DEMO_DIR DATA

.PHONY: help setup demo test check lint bench dist clean

help:  ## lists the targets
	@grep -hE '^[a-z]+: .*##|^[a-z]+:  ##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 16

setup:  ## makes .venv and checks Java
	@.ci/setup

demo: setup dist  ## the whole pipeline on a sample shop, or on real logs: make demo DATA=folder
	@$(BIN)/r2ec-cli demo --demo-dir "$(DEMO_DIR)" $(if $(DATA),--data "$(DATA)")

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint sql

check: lint  ## linters, types, import contracts, SQL style, unit tests: under two minutes
	$(BIN)/python -m pytest -q tests/unit

test: lint dist  ## everything: the linters, then all tests, JOBS (2) side by side
	@.ci/browser
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

bench: setup  ## every benchmark, quickly; each ends in one JSON line
	@for bench in benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python "$$bench" --quick; done

dist: setup  ## dist/r2ec.zip for spark-submit --py-files
	@$(BIN)/python .ci/build_zip.py dist/r2ec.zip

clean:  ## removes what the targets made, .venv excepted
	rm -rf dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
