# The two commands of the README, and what CI runs.
PYTHON ?= python3
VENV ?= .venv

.PHONY: demo test lint types ci clean

demo: $(VENV)/bin/mmprofile-ready
	$(VENV)/bin/python -m mmprofile.train paradigm=both name=both

test: $(VENV)/bin/mmprofile-ready
	$(VENV)/bin/python -m pytest

lint: $(VENV)/bin/mmprofile-ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/bin/mmprofile-ready
	$(VENV)/bin/mypy

ci:
	bash .ci/run

$(VENV)/bin/mmprofile-ready: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
