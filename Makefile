# All targets bring what they need, the Go toolchain included.

PYTHON ?= python3
BIN := .venv/bin
PLAYGROUND := $(BIN)/python -m tidb_magic.playground

# Most tests wait for a server or a browser, so more of them run at once than there are cores.
WORKERS ?= 4
PYTEST := $(BIN)/pytest
AT_ONCE := -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

.PHONY: help demo lab docs check test test-all mutation lint env clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: env  ## kill a statement on a real cluster, and show the proof
	$(BIN)/python notebooks/demo.py $(if $(KEEP),--keep)

lab: env  ## open the quickstart in JupyterLab, on a real cluster
	$(PLAYGROUND) start --workload
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/quickstart.ipynb

check: lint  ## lint, types, and the tests that need no server and no browser
	$(PYTEST) $(AT_ONCE) -m "not cluster and not browser and not benchmark and not slow"

test: lint docs  ## everything that a change must pass; CI runs it
	$(PLAYGROUND) build
	$(PYTEST) $(AT_ONCE) -m "not benchmark and not slow"
	$(PYTEST) -m "benchmark and not slow"

test-all: test  ## also what takes long: before a release
	$(PYTEST) $(AT_ONCE) -m "slow and not benchmark"
	$(PYTEST) -m benchmark
	$(PYTEST) -m benchmark

mutation: env  ## which changes of the core the tests notice
	$(BIN)/python -m pip install --quiet --group mutation
	$(BIN)/mutmut run
	$(BIN)/mutmut results --all true | sed -nE 's/^ *tidb_magic\.([a-z_.]+)\.[^.]*: (.*)/\1 \2/p' | sort | uniq -c

docs: env  ## build the documentation in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: env  ## ruff, mypy and the order of the packages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

env: .venv/installed  ## a virtual environment with everything

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[playground]' --group dev
	touch $@

clean:  ## remove what was built
	rm -rf .venv build dist mutants site
