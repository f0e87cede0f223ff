# Every target sets up what it needs. Required: git, make, Python 3.11 or newer, and a PyPI index that pip can reach
# (pip's own configuration applies, so a company mirror works).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
# Airflow 2.11 supports Python up to 3.12. The first of these that is found makes its environment.
VENV_2_11 ?= .venv-2.11
ifndef PYTHON_2_11
PYTHON_2_11 := $(shell for p in $(PYTHON) python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
endif
NO_PYTHON_2_11 := Airflow 2.11 needs Python 3.11 or 3.12 and none was found (make PYTHON_2_11=/path/to/python3.12)
DAG ?= quickstart
# SLOW=1 adds the tests that are marked as slow.
SELECT := $(if $(SLOW),,-m "not slow")

BIN := $(VENV)/bin
BIN_2_11 := $(VENV_2_11)/bin
# pyenv shows all of its Pythons to a command only when asked to.
NOX = PATH="$(abspath $(BIN)):$$PATH" PYENV_VERSION="$$(pyenv versions --bare 2>/dev/null | paste -sd:)" $(BIN)/nox
READY := $(VENV)/.ready
READY_2_11 := $(VENV_2_11)/.ready
BENCH_READY := .venv-bench/.ready
TOOLSET_READY := .venv-toolset/.ready
BUILD_READY := .venv-build/.ready
SPHINX := --fail-on-warning --keep-going --fresh-env --jobs auto --quiet --doctree-dir build/docs-doctrees
CODE := airflow_provider_sequentum dags_examples docs tests noxfile.py sbom.py

# The lock names every package with its hash, so nothing is resolved and nothing unknown is installed. uv is several
# times as fast as pip, but does not read pip's configuration: where only that knows the way to an index, pip installs.
PIP_INSTALL := -m pip --disable-pip-version-check install -qq --no-deps
define install
	$(1)/bin/python $(PIP_INSTALL) --require-hashes --requirement requirements/uv.txt
	$(1)/bin/uv pip install --system-certs --quiet --python $(1)/bin/python --no-deps --compile-bytecode --require-hashes --requirement $(2) \
		|| { echo "uv could not install; trying pip"; $(1)/bin/python $(PIP_INSTALL) --require-hashes --requirement $(2); }
	$(1)/bin/python $(PIP_INSTALL) --no-build-isolation --editable .
	$(1)/bin/python -m pip --disable-pip-version-check check
	touch $(1)/.ready
endef

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9_.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9_.-]+):.*## /\1\t/' | expand -t 16

.PHONY: env
env: $(READY) ## Make the environment with Airflow 3.3 (.venv)

$(READY): requirements/uv.txt requirements/airflow-3.3.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.12")'
	@echo "Installing Airflow 3.3 and the development tools into $(VENV) (a minute or two)"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(call install,$(VENV),requirements/airflow-3.3.txt)

.PHONY: env-2.11
env-2.11: $(READY_2_11) ## Make the environment with Airflow 2.11 (.venv-2.11)

$(READY_2_11): requirements/uv.txt requirements/airflow-2.11.txt pyproject.toml
	@[ -n "$(PYTHON_2_11)" ] || { echo "$(NO_PYTHON_2_11)" >&2; exit 1; }
	@echo "Installing Airflow 2.11 into $(VENV_2_11) (a minute or two)"
	@[ -x $(BIN_2_11)/python ] || $(PYTHON_2_11) -m venv $(VENV_2_11)
	@$(call install,$(VENV_2_11),requirements/airflow-2.11.txt)

.PHONY: demo
demo: $(READY) ## Run the quickstart on a real Airflow with the sandbox, or DAG=name (SEQUENTUM_API_KEY: the real service)
	$(BIN)/python -m tests.system.demo --dag $(DAG)

.PHONY: demo-ui
demo-ui: $(READY) ## The same, then keep Airflow and the sandbox running and print where to look
	$(BIN)/python -m tests.system.demo --dag $(DAG) --keep-running

.PHONY: test
test: lint unit integration system ## Lint and all quick tests, those on a real Airflow too (SLOW=1: all tests)

.PHONY: unit
unit: $(READY) ## Unit tests: no network, no Airflow database
	$(BIN)/pytest $(SELECT) -n auto tests/unit

# They wait more than they work, so there are more of them at a time than cores.
AT_A_TIME := $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 3 / 2 )))
.PHONY: integration
integration: $(READY) ## Tests against the sandbox over real HTTP
	$(BIN)/pytest $(SELECT) -n $(AT_A_TIME) tests/integration

.PHONY: system
system: $(READY) ## Tests with real Airflow processes
	$(BIN)/pytest $(SELECT) tests/system

# A browser is needed, so these tests are no part of "make test".
AXE := build/axe/axe_playwright_python/axe.min.js
$(AXE): $(READY)
	$(BIN)/python $(PIP_INSTALL) --no-deps --target build/axe axe-playwright-python==0.1.8

.PHONY: test-ui
AIRFLOW ?= 3.3
test-ui: $(READY) $(AXE) ## The page and tab in Airflow's UI, in headless Chromium (AIRFLOW=3.1, UI="-k stops"; needs chromium)
	$(NOX) --session "ui(airflow-$(AIRFLOW))"$(if $(UI), -- tests/ui $(UI))

.PHONY: test-2.11 system-2.11
ifneq ($(PYTHON_2_11),)
# Only what depends on the version of Airflow, so that CI stays below half an hour. "make matrix" runs all on each version.
LEFT_OUT := api cluster quality records sandbox watching test_simulation.py
INTEGRATION_2_11 := agent_builder agent_run assets run_files
test-2.11: $(READY_2_11) ## The tests on Airflow 2.11 that depend on it (skipped where no Python runs it)
	$(BIN_2_11)/pytest $(SELECT) -n auto --hypothesis-profile=quick tests/unit $(LEFT_OUT:%=--ignore=tests/unit/%)
	$(BIN_2_11)/pytest $(SELECT) -n $(AT_A_TIME) $(INTEGRATION_2_11:%=tests/integration/test_%.py)

system-2.11: $(READY) $(READY_2_11) ## Tests with real processes of Airflow 2.11
	SYSTEM_TEST_PYTHON=$(abspath $(BIN_2_11)/python) $(BIN)/pytest $(SELECT) tests/system
else
test-2.11 system-2.11:
	@echo "SKIPPED: $(NO_PYTHON_2_11)"
endif

# What makes the hook's methods the tools of a language model brings packages that nothing else here needs.
.PHONY: test-toolset
test-toolset: $(READY) $(TOOLSET_READY) ## The hook as the tools of an LLM agent, with common-ai's HookToolset and a model that is a function
	.venv-toolset/bin/pytest tests/toolset
	SYSTEM_TEST_PYTHON=$(abspath .venv-toolset/bin/python) $(BIN)/pytest tests/system/test_model_with_tools.py

$(TOOLSET_READY): requirements/uv.txt requirements/toolset.txt pyproject.toml
	@[ -x .venv-toolset/bin/python ] || $(PYTHON) -m venv .venv-toolset
	@$(call install,.venv-toolset,requirements/toolset.txt)

.PHONY: matrix
matrix: $(READY) ## All supported pairs of Airflow and Python: unit, integration, quickstart (PAIR=airflow-3.1-python-3.12: one)
	$(NOX) --session "tests$(if $(PAIR),($(PAIR)))"

.PHONY: race
race: $(READY) ## 600 short deferred tasks on a real Airflow with PostgreSQL: how many go wrong (RACE="--rounds 2")
	$(BIN)/python -m tests.system.race $(RACE)

.PHONY: test-cluster
test-cluster: $(READY) ## The examples on a distributed Airflow: Celery, Redis, PostgreSQL, two workers, two triggerers
	SYSTEM_TEST_DISTRIBUTED=1 $(BIN)/pytest tests/system/test_quickstart.py tests/system/test_key_search.py tests/system/test_example_dags.py

.PHONY: chaos
chaos: $(READY) ## Break a distributed Airflow on purpose and count what goes wrong (CHAOS="--seed 1 --minutes 5")
	$(BIN)/python -m tests.cluster.chaos $(CHAOS)

.PHONY: soak
soak: $(READY) ## An hour of steady load in minutes: does anything in the triggerer grow? (SOAK="--minutes 8")
	$(BIN)/python -m tests.cluster.soak $(SOAK)

.PHONY: simulate simulate-faults
simulate: $(READY) ## Histories of tasks and their remote jobs in virtual time, each checked (SIM="--histories 10000 --seed 7")
	$(BIN)/python -m tests.simulation $(SIM)

simulate-faults: $(READY) ## Faults that were fixed, put back: does the checker find them? (FAULTS="--seeds 1")
	$(BIN)/python -m tests.simulation.faults $(FAULTS)

# Ten thousand answers for each test; the usual run tries a hundred.
FUZZ ?= --hypothesis-profile=thorough
.PHONY: fuzz
fuzz: $(READY) ## Hostile answers and broken tries, many more than in the usual tests (FUZZ=--hypothesis-seed=1)
	$(BIN)/pytest -n auto $(FUZZ) tests/unit/api/test_hostile_answers.py tests/unit/operators/test_hostile_answers.py tests/unit/quality/test_changes.py tests/unit/runs/test_life.py tests/unit/spaces/test_life.py

# The advisories are on the internet, and they change when the code does not: this is no part of the tests.
AUDIT := uvx --quiet pip-audit==2.10.1 --strict --vulnerability-service osv --require-hashes --disable-pip --requirement
.PHONY: audit
audit: $(READY) ## Ask osv.dev for known vulnerabilities of every locked package (needs the internet)
	@for lock in requirements/*.txt; do echo "$$lock"; $(BIN)/$(AUDIT) $$lock || { \
		echo "$$lock: there are vulnerabilities, or https://api.osv.dev cannot be reached (see above)" >&2; exit 1; }; done

.PHONY: coverage
coverage: $(READY) ## Unit and integration tests with line and branch coverage (htmlcov/); fails below 98 %
	$(BIN)/pytest -n auto $(SELECT) tests/unit tests/integration --cov --cov-report=term-missing:skip-covered --cov-report=html

.PHONY: mutation
mutation: $(READY) ## Change the life cycle (jobs/, runs/, sessions/, spaces/) in thousands of ways; each has to fail a test (hours; MUTANTS='*run_wait*' for a part)
	$(BIN)/mutmut run $(if $(MUTANTS),"$(MUTANTS)")
	$(BIN)/mutmut results

.PHONY: lint
lint: $(READY) ## Style, types, layers, wording, spelling, workflows
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tests.wording --folders airflow_provider_sequentum dags_examples docs
	$(BIN)/codespell
	$(BIN)/zizmor --offline --quiet --pedantic .github

# No style check yet: the words that it finds are rewritten first.
.PHONY: lint-wording
lint-wording: $(READY) ## Words that an Airflow engineer would not use, and what to write instead (WORDING=--count)
	$(BIN)/python -m tests.wording $(WORDING)

.PHONY: measure
measure: $(READY) ## Measure how much code a reader meets (CHECK=1: fail above a goal; MEASURE="--beside docs/measures-before.json")
	$(BIN)/python -m tests.measure $(if $(CHECK),--check) $(MEASURE)

.PHONY: format
format: $(READY) ## Fix what the style check can fix
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

.PHONY: bench
bench: $(READY) ## Measure what importing the provider's modules costs a DAG file
	$(BIN)/python -m tests.benchmarks.bench_import

.PHONY: bench-task
bench-task: $(READY) ## Measure what the legs of a deferred task cost a worker, beside BashOperator
	$(BIN)/python -m tests.benchmarks.bench_task

.PHONY: bench-client
bench-client: $(READY) ## Measure the API client's requests per second beside bare httpx
	$(BIN)/python -m tests.benchmarks.bench_client $(BENCH_CLIENT)

.PHONY: bench-download
bench-download: $(READY) ## Measure downloading 1 GiB beside curl (BENCH_DOWNLOAD=64 for less)
	$(BIN)/python -m tests.benchmarks.bench_download $(BENCH_DOWNLOAD)

.PHONY: bench-landing
bench-landing: $(READY) ## Measure landing 1 GiB and 1,000 small files beside curl (BENCH_LANDING="64 100" for less)
	$(BIN)/python -m tests.benchmarks.bench_landing $(BENCH_LANDING)

.PHONY: quality-corpus
quality-corpus: $(READY) ## Check broken and good runs of generated data sets (CORPUS="--seeds 21-40"; some minutes)
	$(BIN)/python -m tests.quality_corpus $(CORPUS)

.PHONY: bench-quality
bench-quality: $(READY) ## Measure checking 1 GiB of records beside DuckDB's bare SUMMARIZE (BENCH_QUALITY="--size 64 --memory 20 200" for less)
	$(BIN)/python -m tests.benchmarks.bench_quality $(BENCH_QUALITY)

.PHONY: bench-changes
bench-changes: $(READY) ## Measure comparing two runs of 10 million records beside DuckDB's bare join (BENCH_CHANGES=1000000 for less)
	$(BIN)/python -m tests.benchmarks.bench_changes $(BENCH_CHANGES)

.PHONY: bench-waiting
bench-waiting: $(READY) $(BENCH_READY) ## Measure a thousand waits on one key, and other providers beside (about an hour)
	$(BIN)/python -m tests.benchmarks.bench_waiting $(BENCH_WAITING)

.PHONY: lab-waiting
lab-waiting: $(READY) ## Wait for many workloads in virtual time, beside simple rules: make lab-waiting LAB="--seeds 10 --check"
	$(BIN)/python -m tests.benchmarks.lab_waiting $(LAB)

# The other providers that are measured beside this one need an environment of their own.
$(BENCH_READY): $(READY) tests/benchmarks/bench_waiting/requirements.txt
	$(BIN)/python -m venv .venv-bench
	.venv-bench/bin/python -m pip --disable-pip-version-check install -qq --requirement tests/benchmarks/bench_waiting/requirements.txt
	touch $@

.PHONY: docs
# All pages every time: a page that is not built again would keep its warnings to itself.
docs: $(READY) ## Build the documentation site, every warning an error (build/docs/index.html)
	$(BIN)/sphinx-build $(SPHINX) -b html docs build/docs

.PHONY: docs-linkcheck
docs-linkcheck: $(READY) ## Ask every external address that the documentation names (needs the internet)
	$(BIN)/sphinx-build $(SPHINX) -b linkcheck docs build/docs-linkcheck

.PHONY: docs-diagrams
docs-diagrams: $(READY) ## Draw the documentation's diagrams from the code (docs/images/*.svg)
	AIRFLOW_HOME=$(abspath build/docs-airflow) $(BIN)/python -m docs.diagrams

.PHONY: screenshots
screenshots: $(READY) ## Take the documentation's screenshots from a running Airflow (needs chromium and chromedriver; SCREENSHOTS=report for less)
	$(BIN)/python -m docs.screenshots $(SCREENSHOTS)

.PHONY: build
build: $(BUILD_READY) ## Wheel and source distribution (dist/), the same bytes wherever they are built
	rm -rf dist
	.venv-build/bin/hatchling build

# A wheel needs hatchling and not an Airflow.
$(BUILD_READY): requirements/build.txt
	@[ -x .venv-build/bin/python ] || $(PYTHON) -m venv .venv-build
	@.venv-build/bin/python $(PIP_INSTALL) --require-hashes --requirement requirements/build.txt
	@touch $@

.PHONY: sbom
sbom: $(BUILD_READY) ## The locked packages as a bill of materials (build/sbom/); the wheel's own is inside it
	.venv-build/bin/python sbom.py requirements/airflow-3.3.txt build/sbom/airflow-provider-sequentum-lock.cdx.json

.PHONY: check-package
check-package: build $(READY) ## Check both: contents, metadata, reproducibility, and the wheel in an environment of its own
	$(BIN)/pytest tests/packaging

# Airflow publishes what each of its releases was tested with, and managed Airflows install nothing else. What it publishes
# for 3.0 has a common-compat provider that is too old; docs/compatibility.md says what to do there.
CONSTRAINTS ?= https://raw.githubusercontent.com/apache/airflow/constraints-{release}/constraints-{python}.txt
CONSTRAINED := $(sort $(shell sed -nE 's/^apache-airflow==([0-9.]+).*/\1/p' $(filter-out %-3.0.txt,$(wildcard requirements/airflow-*.txt))))
.PHONY: check-constraints
check-constraints: build $(READY) ## The wheel installs with the constraints of each Airflow (needs the internet, or CONSTRAINTS=folder/{release}.txt)
	@python=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	constraints="$(CONSTRAINTS)"; constraints="$${constraints//\{python\}/$$python}"; \
	for release in $(CONSTRAINED); do \
		echo "Airflow $$release"; \
		$(BIN)/uv venv --quiet --clear --no-python-downloads --python $(BIN)/python build/constrained; \
		$(BIN)/uv pip install --system-certs --quiet --python build/constrained/bin/python \
			--constraint "$${constraints//\{release\}/$$release}" "apache-airflow==$$release" dist/*.whl; \
		$(BIN)/uv pip check --python build/constrained/bin/python; \
	done

# Run "make lock UPGRADE=--upgrade" to take the newest versions. Registry addresses stay out of the files.
LOCK := pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock" $(UPGRADE)
PROJECT := pyproject.toml --all-extras --group build --group demo --group system --group test
OLDER_AIRFLOWS := 3.2 3.1 3.0 2.11
# What the FAB auth manager needs beside the lock of its Airflow. It wants colorama everywhere, Airflow on Windows alone.
UI_AIRFLOWS := 3.3 3.2 3.1
.PHONY: lock
lock: $(READY) ## Renew the lock files from pyproject.toml (UPGRADE=--upgrade takes newer versions)
	$(BIN)/uv $(LOCK) $(PROJECT) --group airflow-3-3 --group cluster --group docs --group lint --group matrix --group mutation --group package --output-file requirements/airflow-3.3.txt
	for airflow in $(OLDER_AIRFLOWS); do \
		$(BIN)/uv $(LOCK) $(PROJECT) --group airflow-$${airflow/./-} --output-file requirements/airflow-$$airflow.txt; done
	for airflow in $(UI_AIRFLOWS); do lock=requirements/airflow-$$airflow.txt; \
		$(BIN)/uv $(LOCK) --group fab --constraint $$lock $$(sed -nE "/== 'win32'/d; s/^([a-z0-9][a-z0-9._-]*)==.*/--no-emit-package \1/p" $$lock) \
			--output-file requirements/fab-$$airflow.txt; done
	$(BIN)/uv $(LOCK) pyproject.toml --extra sandbox --group airflow-3-3 --group build --group toolset --constraint requirements/airflow-3.3.txt --output-file requirements/toolset.txt
	$(BIN)/uv $(LOCK) --group lock --output-file requirements/uv.txt
	$(BIN)/uv $(LOCK) --group build --constraint requirements/airflow-3.3.txt --output-file requirements/build.txt

.PHONY: clean
clean: ## Remove everything that make made, the environments too
	rm -rf $(VENV) $(VENV_2_11) .venv-bench .venv-build .venv-toolset .nox mutants .demo .cache dist build htmlcov .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
