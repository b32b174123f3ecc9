# Everything here works on a machine with Python 3.11 or newer and a C++20 compiler; `make` lists the targets.
# PYTHON chooses the interpreter of the virtual environment; pip's own settings choose where packages come from.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DATA   := ../shared/data

.DEFAULT_GOAL := help
.PHONY: help setup data demo web test test-web test-sanitizers test-neon lint format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## virtual environment with Sterna and the tools of its developers

$(READY): pyproject.toml CMakeLists.txt $(wildcard core/*.* core/*/*.* core/*/*/*.* bindings/*.*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@test -x $(BIN)/python || { echo "Making the virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing Sterna and its dependencies into $(VENV) (PyTorch is large: a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

data: $(READY) ## unpack the shared data sets and weights into .data, where they are at hand
	@if [ -f $(DATA)/unpack.py ] && [ ! -e .data/.complete ]; then $(BIN)/python $(DATA)/unpack.py .data; fi

demo: $(READY) ## train, compress, inspect and evaluate a small network; needs no data
	$(BIN)/sterna compress recipes/digits_demo.yaml --force
	$(BIN)/sterna inspect runs/digits_demo/digits_demo.sterna
	$(BIN)/sterna evaluate runs/digits_demo/digits_demo.sterna

web: $(READY) ## the engine and the page for browsers, which `sterna serve` serves too (needs Node 18 or newer, with npm)
	@command -v npm >/dev/null || { echo "make web needs Node 18 or newer, with npm" >&2; exit 1; }
	@npm --prefix web ci --silent
	$(BIN)/python web/build.py
	npm --prefix web run --silent build
	$(BIN)/python web/make_site.py

test: $(READY) data ## the whole test suite, with that of the browser
	$(BIN)/python -m pytest -q
	@$(MAKE) --no-print-directory test-web

test-web: $(READY) ## the engine in Node and the page in Chromium (CHROMIUM=... names it), where they are at hand
	@if ! command -v npm >/dev/null; then echo "SKIPPED: the tests of web/ need Node 18 or newer, with npm" >&2; else \
	  export PYTHON=$(CURDIR)/$(BIN)/python && $(MAKE) --no-print-directory web && $$PYTHON web/build.py --test && \
	  npm --prefix web --silent test && npm --prefix web --silent run test:page; fi

test-sanitizers: ## the kernels and the engine under sanitizers of memory, undefined behaviour and threads
	cmake --preset asan
	cmake --build build/asan
	build/asan/kernels_test 1 20 2000
	build/asan/graph_stress 20000
	cmake --preset tsan
	cmake --build build/tsan --target kernels_test
	build/tsan/kernels_test 1 5 10000

test-neon: ## the kernels of 64-bit ARM, cross-compiled, under qemu (Debian: g++-aarch64-linux-gnu, qemu-user-static)
	cmake --preset neon
	cmake --build build/neon --target kernels_test
	ctest --test-dir build/neon --output-on-failure

lint: $(READY) ## style, types and formatting, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find core bindings fuzz web/native \( -name '*.cc' -o -name '*.cpp' -o -name '*.h' -o -name '*.hpp' \) 2>/dev/null | xargs -r $(BIN)/clang-format --dry-run -Werror

format: $(READY) ## put Python and C++ files into the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find core bindings fuzz web/native \( -name '*.cc' -o -name '*.cpp' -o -name '*.h' -o -name '*.hpp' \) 2>/dev/null | xargs -r $(BIN)/clang-format -i

clean: ## remove builds, caches and the virtual environment; data and runs stay
	rm -rf $(VENV) build dist src/sterna/web web/dist web/dist-page web/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests web -name __pycache__ -type d -prune -exec rm -rf {} +
