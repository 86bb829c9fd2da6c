# make demo | test | test-slow | test-kernels | test-radosgw | test-ray | test-browser | farm | bench | bench-gpu | evaluate-style-transfer | evaluate-textures | lint | fuzz | drill: each builds .venv when it is missing and needs nothing else.
PYTHON ?= python3
N ?= 1000
SEED ?= 1
LAUNCHES ?= 40
WORKERS ?= 3
HOLD ?=
STORE ?= local
ITEMS ?=
BIN := .venv/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow test-kernels test-radosgw test-ray test-browser farm bench bench-gpu lint fuzz drill clean
demo: .venv/runtime
	$(BIN)/python -m manifests.examples.pack runs/demo-shards
	$(BIN)/stylefarm run manifests/examples/demo.yaml
	$(BIN)/stylefarm report runs/demo --open

# What test leaves out: whatever is marked slow; kills, races, machines that are cut off, broken stores.
FAULTS := tests/faults tests/flows/test_stopping.py tests/flows/test_workers.py
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile

test: .venv/dev
	$(PYTEST) -m "not slow and not ray and not browser" $(FAULTS:%=--ignore %)

test-slow: .venv/dev
	$(PYTEST) -m "slow and not ray and not browser" $(FAULTS:%=--ignore %)
	$(PYTEST) $(FAULTS)

# A real cluster of two nodes on this machine, whose nodes and workers are killed.
test-ray: .venv/dev
	$(PIP_INSTALL) -e '.[dev,ray]'
	$(BIN)/python -m pytest -q tests/ray

# Whole studies, clicked through in a real Chromium (apt install chromium).
test-browser: .venv/dev
	$(PIP_INSTALL) -e '.[dev,browser]'
	$(PYTEST) tests/browser

# A studio on this machine for two ticks of a schedule: a store, Prefect on PostgreSQL, two machines.
# It looks at what came of it in at most five minutes; HOLD=1 leaves it up until Ctrl-C.
farm: .venv/dev
	$(PIP_INSTALL) -e '.[dev,farm]'
	@$(BIN)/python -m tests.farm $(if $(HOLD),--hold)

# The numerical tests with the instructions of other processors and with two threads.
WITHOUT_NUMBERS := $(patsubst %,tests/ad_lib/%.py, model/test_kernels model/test_room \
  model/test_untrusted_weights model/test_weights pictures/test_image_files \
  pictures/test_images pictures/test_kept)
NUMERICAL := tests/golden tests/ad_lib/algorithm $(patsubst %,tests/ad_lib/test_%.py, \
  batch embedded independence pipeline render_tasks) $(filter-out $(WITHOUT_NUMBERS), \
  $(wildcard tests/ad_lib/model/test_*.py tests/ad_lib/pictures/test_*.py))
TEST_NUMBERS = $(BIN)/python -m pytest -q -m "not slow" $(NUMERICAL)

test-kernels: .venv/dev
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 $(TEST_NUMBERS) -n 2 --dist loadfile
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=default $(TEST_NUMBERS) -n 2 --dist loadfile
	OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE $(TEST_NUMBERS)

# What touches S3, before a server of another make; see tests/infra/radosgw_server.py.
test-radosgw: export STYLEFARM_S3_SERVER := radosgw
test-radosgw: .venv/dev
	$(BIN)/python -m pytest -q -m s3 tests/infra tests/tasks tests/faults
	$(BIN)/python -m tests.faults.drill --seed $(SEED) --launches 8 --workers 2 --items 18 --store s3

# How fast this machine renders, beside the published loop; the second one on one GPU, in 8 minutes.
bench: .venv/runtime
	$(BIN)/stylefarm bench --suite cpu --device cpu --json runs/bench.json --plot runs/bench.png

bench-gpu: .venv/runtime
	$(BIN)/stylefarm bench --suite gpu --device cuda --json runs/bench-gpu.json --plot runs/bench-gpu.png

# Our tasks beside their baselines on the pictures at hand; docs/EVALUATION.md reads the tables.
evaluate-%: .venv/runtime
	$(BIN)/stylefarm run manifests/examples/evaluation/$*.yaml
	$(BIN)/stylefarm compare runs/evaluation/$* --markdown runs/evaluation/$*.md --csv runs/evaluation/$*.csv --plot runs/evaluation/$*.png

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/codespell
	$(BIN)/pyright

fuzz: .venv/dev
	$(BIN)/python -m tests.faults.fuzz --count $(N) --seed $(SEED)

drill: .venv/dev
	@$(BIN)/python -m tests.faults.drill --seed $(SEED) --launches $(LAUNCHES) \
	  --workers $(WORKERS) --store $(STORE) $(ITEMS:%=--items %)

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
