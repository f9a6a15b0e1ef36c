# Every target sets up what it needs. As root on Debian or Ubuntu missing system packages are
# installed (and named); without root the exact command is printed.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
MODE   ?= tun

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint unit hard e2e faults faults-table fuzz interruption soak load bench bench-executor kernel wheel clean

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## a virtual environment with lvsfab and its tools

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing python3-venv"; apt-get -qq update && apt-get -qq install -y python3-venv; \
	  else echo "Python's venv is missing; as root: apt-get install python3-venv" >&2; exit 1; fi
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@command -v busybox >/dev/null || \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing busybox, whose shell the tests try too"; \
	    apt-get -qq update && apt-get -qq install -y --no-install-recommends busybox; \
	  else echo "without busybox the tests of its shell are skipped; as root: apt-get install busybox"; fi
	@$(BIN)/python -m compileall -q lvsfab # else each command does, where PYTHONDONTWRITEBYTECODE is set
	@touch $@

demo: setup ## from nothing to a proven LVS cluster: MODE=tun (or nat, dr), BACKEND=docker
	$(BIN)/lvsfab up $(MODE) $(if $(BACKEND),--backend $(BACKEND))
	$(BIN)/lvsfab verify

test: lint unit hard e2e ## everything that must hold: lint, unit tests, tests on real kernels

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What tests leave for the table of faults: JUnit's XML.
RESULTS := .results
junit    = -o junit_family=xunit1 --junitxml=$(RESULTS)/$(1).xml

unit: setup ## the pure tests, in seconds
	$(BIN)/python -m pytest -n 2 tests/unit $(HARD:%=--ignore=%) $(call junit,unit)

HOSTILE := tests/unit/test_hostile.py
HARD    := $(HOSTILE) tests/unit/test_interruption.py

hard: setup ## hostile input and hosts (19,000 cases), a death at each step of a run: a minute or two
	$(BIN)/python -m pytest -n 2 $(HARD) $(call junit,hard)

# Over both labs, side by side. Where no Docker engine answers, root on Debian or Ubuntu gets one for
# the time of the tests; else the last lines say that this half was not run, and how to have it.
e2e: setup kernel ## the tests on real kernels; ONLY="modes faults" chooses files
	PYTHON=$(BIN)/python RESULTS=$(RESULTS) .ci/e2e --durations=25 \
	  $(or $(ONLY:%=tests/e2e/test_%.py),tests/e2e)

FAULTS := $(addprefix tests/unit/test_, $(addsuffix .py, interruption deadman conflicts wire partial \
    full_disk lock hostile audit resume cli)) \
  $(addprefix tests/e2e/test_, $(addsuffix .py, interruption lockout faults load soak ssh sudo)) \
  tests/e2e/test_keepalived.py::test_3_lvsfab_killed_every_few_steps \
  tests/e2e/test_persist.py::test_it_is_there_when_all_lose_their_power_at_once

faults: setup kernel ## every fault that is tried, and the table of them in docs/
	rm -rf $(RESULTS)
	$(BIN)/python -m pytest $(FAULTS) $(call junit,faults) || true
	$(MAKE) -s faults-table

faults-table: setup ## docs/faults.md, out of what the last `make test` (or faults) left
	$(BIN)/python -m pytest --collect-only -q $(FAULTS) >$(RESULTS)/ids
	$(BIN)/python tests/faults.py $(RESULTS)/ids \
	  $(wildcard $(RESULTS)/*.xml) $(wildcard $(RESULTS)/again/*.xml) docs/faults.md

fuzz: setup ## the same with FUZZ (20) times as many cases
	LVSFAB_FUZZ=$(or $(FUZZ),20) $(BIN)/python -m pytest -n 2 $(HOSTILE)

interruption: setup kernel ## lvsfab killed, and a host lost, after each single step: many hours
	LVSFAB_TEST_LONG=1 $(BIN)/python -m pytest tests/e2e/test_interruption.py \
	  $(call junit,interruption)

soak: setup kernel ## SOAK cycles of up, verify and down across modes under load
	LVSFAB_SOAK=$(or $(SOAK),200) $(BIN)/python -m pytest tests/e2e/test_soak.py

load: setup kernel ## LOAD requests through each mode, each accounted for
	LVSFAB_LOAD=$(or $(LOAD),100000) $(BIN)/python -m pytest tests/e2e/test_load.py

bench: setup kernel ## what things cost, beside their peers
	$(BIN)/python -m pytest tests/bench -s

# All of README's table: HOSTS=1,10,50,200,1000, half an hour, most of it Ansible's at 200 hosts.
bench-executor: setup ## the executor beside its peers, into README's table: HOSTS=1,10
	LVSFAB_BENCH_HOSTS=$(or $(HOSTS),1,10) LVSFAB_BENCH_README=README.md \
	  $(BIN)/python -m pytest tests/bench/test_executor.py -s

kernel: setup ## the lab's complete kernel, built from source (cached)
	$(BIN)/lvsfab lab build --kernel built

wheel: setup ## the wheel, in dist/
	$(BIN)/python -m build --wheel

clean: setup ## end the lab; remove what was built here (not the cache)
	-$(BIN)/lvsfab lab down
	rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis $(RESULTS) $(VENV)
