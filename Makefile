# Every command sets up what it needs in .venv; CI runs the same ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: install demo test integration bench check fix clean

$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[demo]"
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) -e ".[dev]"
	touch $@

install: $(VENV)/.dev

demo: $(VENV)/.demo
	$(BIN)/milvus-rerank demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

integration: $(VENV)/.dev
	$(BIN)/python -m pytest integration_tests

bench:
	$(PYTHON) benchmarks/run.py
	benchmarks/.venvs/harness/bin/python benchmarks/plot.py
	$(PYTHON) benchmarks/tables.py

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pydoclint milvus_rerank
	docker/lint.sh

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) build dist benchmarks/.models benchmarks/.venvs
