# Two commands do all set-up: `make demo` and `make test`. Both use .venv; every recipe is quick when run again.
#
#   PYTHON  the interpreter to make .venv with           make demo PYTHON=python3.12
#   TORCH   which torch to install, as pip spells it      make demo TORCH='torch==2.13.0'

PYTHON ?= python3
TORCH ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

ifneq (3.81,$(firstword $(sort 3.81 $(MAKE_VERSION))))
$(error GNU make 3.81 or newer is needed, this is "$(MAKE_VERSION)"; Debian: apt install make, macOS: xcode-select --install)
endif

.PHONY: demo test test_all lint types compat clean FORCE
.DEFAULT_GOAL := demo

demo: $(VENV)/.demo
	$(BIN)/python fixtures/demo.py

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

# With the cases of which `make test` runs a covering set: an hour.
test_all: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -m "" $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

# Both ends of the versions of torch and its company that pyproject.toml allows, one after the other in an environment
# of its own: 7 GB, half an hour.
COMPAT := .venv-compat
LOWEST = $(shell "$(PYTHON)" -c 'import tomllib; \
	extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	names = ("accelerate", "peft", "torch", "transformers"); \
	print(*(line.split(",")[0].replace(">=", "==") for line in extras["train"] if line.startswith(names)))')

compat:
	rm -rf $(COMPAT)
	"$(PYTHON)" -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check $(LOWEST) -e '.[all,dev]'
	$(COMPAT)/bin/python -m pytest -n 2 tests/trainer
	$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -e '.[all,dev]'
	$(COMPAT)/bin/python -m pytest -n 2 tests/trainer

clean:
	rm -rf $(VENV) $(COMPAT) demo

$(VENV)/.made:
	@command -v "$(PYTHON)" >/dev/null || { echo "error: $(PYTHON) is not installed. Install Python 3.11 or newer (Debian: apt install python3 python3-venv), or name one: make PYTHON=..." >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $$("$(PYTHON)" --version) is too old. Install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 2; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) cannot make a virtual environment. Install its venv module (Debian: apt install python3-venv)" >&2; exit 2; }
	@echo "making $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

# Installs again only if TORCH names another torch than last time; without TORCH, whatever is there stays. The value
# goes through the environment, so that the shell takes no > in it for a redirection.
export TORCH
$(VENV)/.torch: $(VENV)/.made FORCE
	@[ -e $@ ] && { [ -z "$$TORCH" ] || [ "$$(cat $@)" = "$$TORCH" ]; } || { \
		echo "installing $${TORCH:-torch}" && $(PIP) $${TORCH:-torch} && echo "$$TORCH" > $@; }

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	@echo "installing phi3v"
	@$(PIP) -e '.[convert,train]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "installing what the tests need"
	@$(PIP) -e '.[all,dev]'
	@touch $@
