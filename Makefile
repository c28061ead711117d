# Two commands for a fresh Debian or Ubuntu machine, as root:
#   make sandbox      a running cloud on this machine
#   make test         everything that is tested, a cloud included
SHELL := /bin/bash
NODES ?= 1
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help sandbox test test-unit lint clean-sandbox venv benchmarks

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
	$(BIN)/pytest -q -m "not engine and not cloud"

test: venv
	bash scripts/test.sh

benchmarks: venv
	$(BIN)/python -m benchmarks.run
