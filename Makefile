# Two commands for a fresh Debian or Ubuntu machine, as root:
#   make sandbox      a running cloud on this machine
#   make test         the tests, a cloud of one node included; the sandbox that is there is removed for it
SHELL := /bin/bash
NODES ?= 1
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help sandbox test test-unit test-ha test-upgrade chaos lint clean-sandbox venv benchmarks

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -3

venv: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml scripts/venv.sh
	PYTHON=$(PYTHON) bash scripts/venv.sh $(VENV)

sandbox: venv
	bash scripts/sandbox.sh $(NODES)

clean-sandbox: venv
	$(BIN)/kolla-salt sandbox down

lint: venv
	$(BIN)/ruff check kolla_salt tests benchmarks
	$(BIN)/ruff format --check kolla_salt tests benchmarks
	$(BIN)/yamllint -s salt pillar tests orch .yamllint
	$(BIN)/salt-lint orch/*.sls $$(find salt -name '*.sls' -not -path 'salt/orch/*')

test-unit: venv
	$(BIN)/pytest -q -m "not engine and not cloud and not salt and not ha and not upgrade"

test: venv
	bash scripts/test.sh

benchmarks: venv
	$(BIN)/python -m benchmarks.run

# One of each failure, on a sandbox of three controllers (made if there is none); ARGS goes to pytest, e.g. ARGS='-k partition'.
test-ha: venv
	bash scripts/test-ha.sh $(ARGS)

# A real upgrade and the way back, in a sandbox that is made for it; e.g. OLD=2025.2 NODES=4.
test-upgrade: venv
	bash scripts/test-upgrade.sh $(ARGS)

# The same failures again and again, into benchmarks/results/ha.*; e.g. ARGS='--only databases --times 20'.
chaos: venv
	$(BIN)/python -m benchmarks.chaos $(ARGS)
