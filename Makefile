# Two commands on a machine that has Python 3.11 or newer, pip and make:  make demo   and   make test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench servers clean

$(VENV)/.%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@

demo: $(VENV)/.demo
	$(BIN)/python -m sendguard.demo

test: $(VENV)/.test servers
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.core
	$(BIN)/python -m benchmarks.ways

# The tests run on a real Redis besides Valkey, and in a real Chromium; Debian's packages bring both.
servers:
	packages=$$(command -v redis-server >/dev/null || echo redis-server; \
	  command -v chromium >/dev/null && command -v chromedriver >/dev/null || echo chromium chromium-driver); \
	test -z "$$packages" || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$packages; }

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
