# Two commands: `make demo` shows what this does, `make test` proves it.
# Each makes its own virtual environment in .venv; Python 3.11 or newer is all they need.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean

demo: .venv/for-demo
	$(BIN)/reid demo --out demo

test: .venv/for-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/for-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

clean:
	rm -rf .venv demo

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv

.venv/for-demo: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet -e '.[cpu]'
	touch $@

.venv/for-test: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet -e '.[cpu,openvino,video,dev]'
	touch $@ .venv/for-demo
