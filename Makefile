# The two commands of the README, the loop of CONTRIBUTING.md, and what CI runs.
PYTHON ?= python3
VENV ?= .venv
READY = $(VENV)/bin/mmprofile-ready

.PHONY: demo fast test lint types ci clean

demo: $(READY)
	$(VENV)/bin/python -m mmprofile.train paradigm=both name=both

fast: $(READY)
	$(VENV)/bin/python -m pytest -m "fast and not extra"

test: $(READY)
	$(VENV)/bin/python -m pytest

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: $(READY)
	$(VENV)/bin/mypy

ci:
	bash .ci/run

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
