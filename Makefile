# Needs Python >= 3.11 and make; the rest is installed here, once, into .venv.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: quickstart test check install

quickstart: $(STAMP)
	$(VENV)/bin/tskd run

test: $(STAMP)
	$(VENV)/bin/python -m pytest

check: $(STAMP)
	scripts/check

install: $(STAMP)

# torch has a step of its own: it is the largest download, and its build (CPU or CUDA) may come
# from an index that the machine's pip configuration names.
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tskd_ray needs Python >= 3.11: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c requirements.lock torch==2.13.0
	$(VENV)/bin/python -m pip install --quiet -c requirements.lock -e '.[dev]'
	@touch $@
