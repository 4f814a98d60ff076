# `make` or `make help` lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV) || { apt-get update && apt-get install -y python3-venv && $(PYTHON) -m venv $(VENV); }
	$(BIN)/pip install --quiet --editable '.[test,dev]'
	touch $@

.PHONY: .venv
.venv: $(VENV)/.installed

.PHONY: servers
servers: ## install the servers that the tests and the demo run, from Debian's packages
	tests/servers/install

.PHONY: demo
demo: .venv servers ## brew a real image from a real registry, and show the result
	$(BIN)/python -m demo

# One more than cores, at most 4: tests compute about as much as they wait for servers.
PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(min(4, 1 + len(os.sched_getaffinity(0))))')
.PHONY: test
# Programs started by tests compile our modules once, not at each start.
test: export PYTHONDONTWRITEBYTECODE :=
test: .venv servers ## run every test
	$(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile --no-loadscope-reorder --durations=15 $(PYTEST_ARGS)

CHAOS_SECONDS ?= 600
.PHONY: chaos
chaos: .venv servers ## make every part fail at random for CHAOS_SECONDS (600), with CHAOS_SEED or a new seed
	$(BIN)/python -m tests.chaos --seconds $(CHAOS_SECONDS) $(if $(CHAOS_SEED),--seed $(CHAOS_SEED))

.PHONY: lint
lint: .venv ## check style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: bench
bench: .venv servers ## measure, each figure as a ratio; tables, JSON and plots in bench/results/
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/python -m bench

.PHONY: clean
clean: ## remove the files created by make
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis bench/scratch
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
