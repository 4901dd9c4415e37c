# Two commands on a machine that has Python 3.11 or newer, pip and make:  make demo   and   make test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOWEST := $(VENV)-lowest

.PHONY: demo test lowest lint bench counts servers clean

$(VENV)/.%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@

demo: $(VENV)/.demo
	$(BIN)/python -m sendguard.demo

test: $(VENV)/.test servers
	$(BIN)/python -m pytest -n 2

# The tests with the oldest versions that pyproject.toml allows, in an environment of their own.
lowest: servers
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip compile --quiet --resolution lowest-direct --python $(LOWEST)/bin/python --extra test \
		--output-file $(LOWEST)/lowest.txt pyproject.toml
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check -r $(LOWEST)/lowest.txt
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	$(LOWEST)/bin/python -m pytest -n 2

lint: $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# BENCH=--quick for a short trial, BENCH="--into FOLDER" to write elsewhere than into benchmarks/results.
bench: $(VENV)/.bench servers
	$(BIN)/python -m benchmarks.bench $(BENCH)

# What `tests/test_counts.py` holds against, written anew: after a change that is meant to cost more, or that costs less.
counts: $(VENV)/.test servers
	$(BIN)/python -m benchmarks.counts

# The tests run on a real Redis besides Valkey, and in a real Chromium; Debian's packages bring both.
servers:
	packages=$$(command -v redis-server >/dev/null || echo redis-server; \
	  command -v chromium >/dev/null && command -v chromedriver >/dev/null || echo chromium chromium-driver); \
	test -z "$$packages" || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$packages; }

clean:
	rm -rf $(VENV) $(LOWEST) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
