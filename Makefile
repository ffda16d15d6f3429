# Two commands: `make demo` shows the main job on a real TiDB cluster, `make test` runs every check.
# Both bring what they need, the Go toolchain included.

PYTHON ?= python3
BIN := .venv/bin
PLAYGROUND := $(BIN)/python -m tidb_magic.playground

.PHONY: demo lab test lint env clean

demo: env
	$(BIN)/python notebooks/demo.py $(if $(KEEP),--keep)

lab: env
	$(PLAYGROUND) start --workload
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/quickstart.ipynb

test: env lint
	$(PLAYGROUND) build
	$(BIN)/pytest

lint: env
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

env: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[playground]' --group dev
	touch $@

clean:
	rm -rf .venv build dist
