# Each target makes its own .venv from nothing, and anew for another version of Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(BIN)/.installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
DEMO := demo
# One more than the cores that this process may use, as some tests wait for processes that they have killed; each takes about 1 GB.
TEST_WORKERS := $(shell $(PYTHON) -c 'import os; f = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count())); print(min(4, 1 + len(f(0))))')

.PHONY: demo test check docs clean

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15) and "Python 3.10 to 3.14 is needed: make PYTHON=python3.13 …")'
	$(PYTHON) -m venv $(if $(wildcard $@),,--clear) $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/preprocess demo $(DEMO)

# Without mediapipe, its models are downloaded once into the user's cache, before the tests that need them start at once.
test: $(INSTALLED)
	$(BIN)/preprocess models --fetch > /dev/null
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

check: $(INSTALLED) docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every page is built anew, as a page that did not change may quote a file that did.
docs: $(INSTALLED)
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going docs build/docs

clean:
	rm -rf $(VENV) $(DEMO) build dist .pytest_cache .mypy_cache .ruff_cache
