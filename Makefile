# Every target sets up what it needs: a virtual environment in the checkout with pinned dependencies.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check format lint types imports docs bench faults fuzz relion generated screenshots lock clean

demo: $(STAMP)  ## simulated microscope, daemon and subscriber together; ends by itself
	$(BIN)/streamrecon demo

TEST_WORKERS ?= 3
test: check $(STAMP)  ## format, lint, types, imports, then every test
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile -m "not alone"
	$(BIN)/pytest -m alone

check: format lint types imports

format: $(STAMP)
	$(BIN)/ruff format --check .

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/deptry .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

docs: $(STAMP)  ## the documentation as a site, in site/; any broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(STAMP)  ## the figures in docs/: minutes to hours, see benchmarks/README.md
	$(BIN)/python -m benchmarks.roofline
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.convergence
	$(BIN)/python -m benchmarks.relion_set

generated: $(STAMP)  ## write what is made from the code anew: the reference of metrics, the JSON Schema, the dashboards
	$(BIN)/python -m streamrecon.monitor.reference docs/metrics.md
	$(BIN)/python -m streamrecon.transport.json_schema docs/schema
	$(BIN)/python -m deploy.grafana.generate

screenshots: $(STAMP)  ## docs/images/page/ anew, from the page's tests in a real browser (Debian: chromium chromium-driver)
	$(BIN)/pytest tests/e2e/test_page.py --screenshots docs/images/page

SOAK_MINUTES ?= 120
faults: $(STAMP)  ## kill -9, full disks, damage, hostile peers, a soak (SOAK_MINUTES); writes docs/faults.md
	$(BIN)/python -m tests.faults --soak-minutes $(SOAK_MINUTES) --fuzz build/fuzz.json --write docs/faults.md

FUZZ_SECONDS ?= 600
fuzz: $(STAMP)  ## every reader and decoder: a million inputs each, or so many seconds
	$(BIN)/python -m tests.faults.fuzz --seconds $(FUZZ_SECONDS) --json build/fuzz.json

lock: $(STAMP)  ## write requirements.lock anew from what pyproject.toml allows
	$(BIN)/pip install --upgrade --upgrade-strategy eager -e '.[dev]'
	$(BIN)/pip freeze --exclude-editable > requirements.lock

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "streamrecon needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) demo-out site .pytest_cache .mypy_cache .ruff_cache .hypothesis
