# Everything happens in a virtual environment of its own, $(VENV):
#
#   make demo    install, then run the demonstration of two minutes into ./quickstart
#   make test    install with the tests' requirements, run the tests
#   make lint    style and types
#   make docs    install with what the documentation needs, build it into build/docs
#   make clean   remove the virtual environment
#
# Another torch (for a GPU, say):  make demo TORCH=torch

PYTHON ?= python3
VENV ?= .venv
TORCH ?=

TORCH_VERSION := 2.13.0
TORCH_INDEX := https://download.pytorch.org/whl/cpu
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-input

.PHONY: demo test lint docs clean

demo: $(VENV)/.installed
	$(BIN)/dmmc quickstart --out quickstart

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy dmmc
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs
	rm -rf build/docs build/doctrees
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs -d build/doctrees . build/docs
	@echo "The documentation is in build/docs/index.html"

clean:
	rm -rf $(VENV)

$(VENV)/.torch:
	@$(PYTHON) -c "import sys; v = sys.version_info; v >= (3, 11) or sys.exit('dmmc needs Python 3.11 or later, this is %d.%d: make PYTHON=...' % v[:2])"
	$(PYTHON) -m venv $(VENV)
	$(install_torch)
	touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.torch
	$(PIP) --quiet --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/.torch
	$(PIP) --quiet --editable ".[test,lint]"
	touch $@

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/.torch
	$(PIP) --quiet --editable ".[docs]"
	touch $@

# On Linux, PyPI's torch brings gigabytes of CUDA along; "+cpu" names the build without. It is taken from where
# pip is configured to look, if it is there, and otherwise from PyTorch's own index.
define install_torch
@if [ -n "$(TORCH)" ]; then \
	echo "Installing $(TORCH)"; \
	$(PIP) $(TORCH); \
elif $(BIN)/python -c "import torch" 2>/dev/null; then \
	echo "torch is already in $(VENV)"; \
else \
	echo "Installing torch $(TORCH_VERSION) for the CPU"; \
	$(PIP) --quiet "torch==$(TORCH_VERSION)+cpu" 2>/dev/null \
	|| $(PIP) "torch==$(TORCH_VERSION)" --index-url $(TORCH_INDEX) \
	|| { echo "No CPU build of torch $(TORCH_VERSION) could be installed from $(TORCH_INDEX). Say which to take:"; \
	     echo "  make $(MAKECMDGOALS) TORCH=torch                      the default build from PyPI"; \
	     echo "  make $(MAKECMDGOALS) TORCH=/path/to/torch-...-.whl    a wheel on disk"; \
	     exit 1; }; \
fi
endef
