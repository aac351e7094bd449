# make demo · make test · make test-all · make lint · make bench · make notebooks · make screenshot
# Each target sets up .venv first, with uv where it is installed and with venv and pip otherwise.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
UV := $(shell command -v uv 2>/dev/null)
# tensorflow and tensorflow-cpu install into the same folder, so exactly one of them is asked for.
TF := $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),cpu,tf)

ifdef UV
  CREATE = $(UV) venv --quiet --seed --allow-existing --python '>=3.11' $(VENV)
  INSTALL = $(UV) pip install --quiet --compile-bytecode --python $(PY)
else
  CREATE = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")' && $(PYTHON) -m venv $(VENV)
  INSTALL = $(PY) -m pip install --quiet
endif

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test test-all lint bench notebooks check-notebooks screenshot clean

demo: $(VENV)/installed
	$(PY) examples/quickstart.py

# Every test, on a third of its cases. .ci/run gives the other thirds to JAX and torch.
test: $(VENV)/installed
	$(PY) -m pytest -n 2 tests --one-in 3

# All cases, on the backend that KERAS_BACKEND names.
test-all: $(VENV)/installed
	$(PY) -m pytest -n 2 tests

lint: $(VENV)/installed-notebooks
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

bench: $(VENV)/installed
	$(PY) benchmarks/step_time.py

notebooks: $(VENV)/installed-notebooks
	$(PY) tools/build_notebooks.py

check-notebooks: $(VENV)/installed-notebooks
	$(PY) tools/build_notebooks.py --check

# Opens every tab in a browser, fails when one is empty, and leaves the pictures of README and docs/tensorboard.md.
# Needs Chromium or Chrome on the machine; the browser is found on PATH.
screenshot: $(VENV)/installed-screenshot
	$(PY) tools/tensorboard_screenshot.py
	$(PY) tools/tensorboard_screenshot.py --tabs

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .ruff_cache

$(VENV)/installed: pyproject.toml
	$(CREATE)
	$(INSTALL) -e '.[$(TF),plots,dev]'
	@touch $@

$(VENV)/installed-notebooks: $(VENV)/installed
	$(INSTALL) -e '.[$(TF),notebooks]'
	@touch $@

$(VENV)/installed-screenshot: $(VENV)/installed
	$(INSTALL) playwright
	@touch $@
