# `make bench MODEL=tcard` is enough on a fresh machine: every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

MODEL ?= tcard
DATA ?= signvid
GPUS ?=
SEED ?= 0
ARGS ?=

SETTINGS = model=$(MODEL) data=$(DATA) seed=$(SEED) \
	$(if $(GPUS),trainer.accelerator=gpu trainer.devices=$(GPUS)) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup bench sweep leaderboard pretrain test test-slow soak perf lint type clean

help:  ## show this help
	@echo "targets:"
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "variables:"
	@echo "  MODEL=tcard|cret|bicnet|eercf|meanpool|all   DATA=signvid|csv|msrvtt|...   SEED=0   GPUS=8   ARGS=\"key=value ...\""
	@echo "  SWEEP=cret/gees   SEEDS=3   TO=towers"

setup: $(READY)  ## make .venv from the lock file and install the package into it

$(READY): constraints.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "tvr-bench needs Python 3.11 or newer; set PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

bench: $(READY)  ## train and test MODEL on DATA; MODEL=all: every model, two at a time on a CPU
	@$(BIN)/tvr-bench bench $(SETTINGS)

SWEEP ?=
SEEDS ?= 3
sweep: $(READY)  ## run the ablation table SWEEP with SEEDS seeds (a number, or 0,4,7); no SWEEP: list them
	@$(BIN)/tvr-bench sweep $(if $(SWEEP),$(SWEEP) seeds=$(SEEDS) \
		$(if $(GPUS),trainer.accelerator=gpu trainer.devices=$(GPUS)) $(ARGS),--list)

leaderboard: $(READY)  ## write leaderboard.html, .md and .csv, and runs.csv, from all records
	@$(BIN)/tvr-bench leaderboard $(ARGS)

TO ?= towers
pretrain: $(READY)  ## pretrain the tiny towers on drawn stills, into the folder TO
	@$(BIN)/tvr-bench pretrain --to $(TO) $(ARGS)

# in two processes of one thread each; threads that wait for work must not spin
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(READY)  ## run the quick tests
	@$(PYTEST)

test-slow: $(READY)  ## run the slow tests too
	@$(PYTEST) -m "not soak"

soak: $(READY)  ## kill, stop and starve runs by the hundred; many minutes
	@$(BIN)/python -m pytest -m soak
	@TVR_TRIALS=50 $(BIN)/python -m pytest -m slow tests/test_many_devices.py
	@$(BIN)/python benchmarks/durability.py

perf: $(READY)  ## measure the small sizes of all benchmarks against the kept results; ARGS=--keep keeps
	@$(BIN)/python benchmarks/perf.py $(ARGS)

lint: $(READY)  ## check style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

type: $(READY)  ## check types
	@$(BIN)/mypy

clean:  ## remove the environment, caches and build files; runs and leaderboards stay
	rm -rf $(VENV) .tvr_cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "runs, sweeps and leaderboards stay; remove them by hand"
