# make demo | test | lint | fuzz: each builds .venv when it is missing and needs nothing else.
PYTHON ?= python3
N ?= 1000
SEED ?= 1
BIN := .venv/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint fuzz clean
demo: .venv/runtime
	$(BIN)/python -m manifests.examples.pack runs/demo-shards
	$(BIN)/stylefarm run manifests/examples/demo.yaml
	$(BIN)/stylefarm report runs/demo --open

test: .venv/dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/pyright

fuzz: .venv/dev
	$(BIN)/python -m tests.faults.fuzz --count $(N) --seed $(SEED)

.venv/bin/python:
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "Install python3-venv first: apt install python3-venv"; exit 1; }

.venv/runtime: .venv/bin/python pyproject.toml constraints.txt
	$(PIP_INSTALL) -e .
	touch $@

.venv/dev: .venv/runtime
	$(PIP_INSTALL) -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs build *.egg-info
