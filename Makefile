# `make demo` shows the main job on a real TiDB cluster. Three tiers of tests:
#   make check      lint, types, and the tests that need no server and no browser
#   make test       everything that a change must pass; .ci/run calls it
#   make test-all   also what takes long: before a release
#   make mutation   which changes of the core the tests notice
# All bring what they need, the Go toolchain included.

PYTHON ?= python3
BIN := .venv/bin
PLAYGROUND := $(BIN)/python -m tidb_magic.playground

# Most tests wait for a server or a browser, so more of them run at once than there are cores.
WORKERS ?= 4
PYTEST := $(BIN)/pytest
AT_ONCE := -n $(WORKERS) --dist loadgroup

.PHONY: demo lab check test test-all mutation lint env clean

demo: env
	$(BIN)/python notebooks/demo.py $(if $(KEEP),--keep)

lab: env
	$(PLAYGROUND) start --workload
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/quickstart.ipynb

check: lint
	$(PYTEST) $(AT_ONCE) -m "not cluster and not browser and not benchmark and not slow"

test: lint
	$(PLAYGROUND) build
	$(PYTEST) $(AT_ONCE) -m "not benchmark and not slow"
	$(PYTEST) -m "benchmark and not slow"

test-all: test
	$(PYTEST) $(AT_ONCE) -m "slow and not benchmark"
	$(PYTEST) -m benchmark
	$(PYTEST) -m benchmark

mutation: env
	$(BIN)/python -m pip install --quiet --group mutation
	$(BIN)/mutmut run
	$(BIN)/mutmut results --all true | sed -nE 's/^ *tidb_magic\.([a-z_.]+)\.[^.]*: (.*)/\1 \2/p' | sort | uniq -c

lint: env
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

env: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[playground]' --group dev
	touch $@

clean:
	rm -rf .venv build dist mutants
