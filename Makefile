# Every command sets up what it needs in an environment of its own; CI runs the same ones.
# On Linux, TORCH_BACKEND=cpu takes PyTorch's wheel for CPUs, a tenth of the size of the one that brings CUDA.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --disable-pip-version-check
TORCH := torch==2.13.0
LOCK = $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.10 --no-annotate --no-header
PYTEST := pytest --numprocesses auto --maxprocesses 4 --dist worksteal
COMPAT := $(PYTEST) -m "compat and not hub" -o filterwarnings=default

.PHONY: install demo bulk-demo examples test test-base test-frameworks test-recipes test-newest test-oldest integration coverage \
	bench check docs dist lock fix clean

# $(call environment,FOLDER): an empty environment with a pip that knows dependency groups
define environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "milvus-rerank needs Python 3.10 or newer, got %d.%d. Type: make PYTHON=python3.12" % sys.version_info[:2])'
	rm -rf $(1)
	$(PYTHON) -m venv $(1)
	$(1)/bin/python $(INSTALL) "pip>=25.1"
endef

# $(call torch,FOLDER,CONSTRAINTS): torch, where TORCH_BACKEND says which
define torch
	$(if $(TORCH_BACKEND),$(1)/bin/python $(INSTALL) uv)
	$(if $(TORCH_BACKEND),$(1)/bin/uv pip install --quiet --python $(1)/bin/python --torch-backend=$(TORCH_BACKEND) $(2) torch)
endef

$(VENV)/.demo: pyproject.toml constraints.txt
	$(call environment,$(VENV))
	$(BIN)/python $(INSTALL) -c constraints.txt -e ".[openvino,lite,eval]"
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(call torch,$(VENV),-c constraints.txt)
	$(BIN)/python $(INSTALL) -c constraints.txt -e ".[all]" --group dev
	touch $@

install: $(VENV)/.dev

demo: $(VENV)/.demo
	$(BIN)/milvus-rerank demo

# Queries of a judged collection in bulk, with Milvus as the first stage: the shipped one, or FOLDER=... in BEIR's layout.
bulk-demo: $(VENV)/.demo
	$(BIN)/python $(INSTALL) -c constraints.txt -e ".[openvino,lite,eval,ray]"
	$(BIN)/python scripts/bulk_demo.py $(FOLDER)

# Each program of examples/, or those of PROGRAMS="...", in a fresh environment with the newest versions.
examples:
	$(PYTHON) scripts/run_examples.py $(PROGRAMS)

test: $(VENV)/.dev
	MILVUS_RERANK_TESTS_COMPLETE=1 $(BIN)/python -m $(PYTEST)

# The wheel without extras: what needs more skips, and says so.
test-base:
	$(call environment,$(VENV)-base)
	$(VENV)-base/bin/python $(INSTALL) -c constraints.txt . --group test-base
	$(VENV)-base/bin/$(PYTEST) -rs

# The adapters beside their frameworks, where a missing framework is a failure. They have locks for themselves: LlamaIndex'
# vector store for Milvus takes pymilvus 2 only, and LangChain an async-timeout that others refuse.
test-frameworks:
	$(call environment,$(VENV)-frameworks)
	$(VENV)-frameworks/bin/python $(INSTALL) -c tests/integrations/frameworks.txt \
		-e ".[lite,langchain,haystack,mcp]" --group test-frameworks
	MILVUS_RERANK_FRAMEWORKS="langchain haystack mcp" $(VENV)-frameworks/bin/python -m $(PYTEST) tests/integrations
	$(call environment,$(VENV)-llamaindex)
	$(VENV)-llamaindex/bin/python $(INSTALL) -c tests/integrations/llamaindex.txt -e ".[llamaindex]" --group test-llamaindex
	MILVUS_RERANK_FRAMEWORKS=llama $(VENV)-llamaindex/bin/python -m $(PYTEST) tests/integrations

# The recipes of docs/recipes.md, with the newest versions of their frameworks.
test-recipes:
	$(call environment,$(VENV)-recipes)
	$(call torch,$(VENV)-recipes)
	$(VENV)-recipes/bin/python $(INSTALL) $(if $(TORCH_BACKEND),,"$(TORCH)") -e ".[lite]" --group test-recipes
	MILVUS_RERANK_FRAMEWORKS="beir dspy mteb pyterrier txtai" $(VENV)-recipes/bin/python -m pytest tests/integrations/test_recipes.py

# The newest and the oldest versions that pyproject.toml allows, torch aside: a short suite, where warnings are no errors.
test-newest:
	$(call environment,$(VENV)-newest)
	$(call torch,$(VENV)-newest)
	$(VENV)-newest/bin/python $(INSTALL) $(if $(TORCH_BACKEND),,"$(TORCH)") -e ".[all]" --group test-base
	$(VENV)-newest/bin/python -m $(COMPAT)

test-oldest:
	$(call environment,$(VENV)-oldest)
	$(VENV)-oldest/bin/python $(INSTALL) --group lock
	echo "$(TORCH)" | $(VENV)-oldest/bin/uv pip compile --quiet --resolution lowest-direct --extra all \
		--python $(VENV)-oldest/bin/python -c - pyproject.toml --output-file $(VENV)-oldest/constraints.txt >/dev/null
	$(call torch,$(VENV)-oldest,-c $(VENV)-oldest/constraints.txt)
	$(VENV)-oldest/bin/python $(INSTALL) -c $(VENV)-oldest/constraints.txt -e ".[all]" --group test-base
	$(VENV)-oldest/bin/python -m $(COMPAT)

integration: $(VENV)/.dev
	$(BIN)/python -m pytest integration_tests

coverage: $(VENV)/.dev
	$(BIN)/python -m $(PYTEST) --cov --cov-report=term:skip-covered --cov-report=html

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
	scripts/lint.sh

# The site, in build/site; a warning is an error.
docs: $(VENV)/.dev
	$(BIN)/sphinx-build -q -W --keep-going docs build/site
	@echo "open build/site/index.html"

# What is published, built and checked.
dist: $(VENV)/.dev
	scripts/check_dist.sh $(BIN)/python
	$(BIN)/python scripts/first_hour.py dist/*.whl

# Chooses the newest versions anew. CUDA's packages are left out: torch names their versions itself.
lock:
	$(call environment,$(VENV)-lock)
	$(VENV)-lock/bin/python $(INSTALL) --group lock
	echo "$(TORCH)" | $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.10 --all-extras \
		--group dev --group lock --no-annotate --no-header -c - pyproject.toml | grep -Ev '^(nvidia|cuda|triton)-?' \
		>constraints.new
	mv constraints.new constraints.txt
	$(LOCK) --extra lite --extra langchain --extra haystack --extra mcp --group test-frameworks pyproject.toml \
		>tests/integrations/frameworks.txt
	$(LOCK) --extra llamaindex --group test-llamaindex pyproject.toml >tests/integrations/llamaindex.txt

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) $(VENV)-* build dist htmlcov .coverage benchmarks/.models benchmarks/.venvs
