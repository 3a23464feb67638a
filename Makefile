# Needs Python >= 3.11 and make; the rest is installed here, once, into .venv.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock
TORCH := $(shell sed -n 's/^torch==//p' requirements.lock)

.PHONY: quickstart test check docs install

quickstart: $(STAMP)
	$(VENV)/bin/tskd run

test: $(STAMP)
	$(VENV)/bin/python -m pytest

check: $(STAMP)
	scripts/check

docs: $(STAMP)  # the site, in build/site
	@$(PIP) -c docs/site/requirements.lock -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml

install: $(STAMP)

# torch has a step of its own: it is the largest download, and its build (CPU or CUDA) may come
# from an index that the machine's pip configuration names.
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tskd_ray needs Python >= 3.11: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "tskd_ray needs Python's venv module: apt install python3-venv, or make" \
	    "PYTHON=/path/to/another/python ..." >&2; exit 2; }
	@echo "== 1/3 virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "== 2/3 torch, a large download: minutes, once"
	@$(PIP) torch==$(TORCH)
	@echo "== 3/3 the other packages of requirements.lock, and tskd_ray itself: minutes, once"
	@$(PIP) -e '.[dev]'
	@touch $@
	@echo "== installed; . $(VENV)/bin/activate gives your shell tskd"
