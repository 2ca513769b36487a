# `make run` and `make test` do all the set-up they need.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PRESET ?= tiny
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup renderer run test fast lab demo doctor bench clean fresh libero docs

help:           ## this list
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/:/' | awk -F: '{printf "  make %-10s%s\n", $$1, $$2}'

run: setup      ## run the stages' notebooks headless (PRESET=tiny), then print what they measured
	@reasonflow run --preset $(PRESET)

test: setup libero ## run all tests: notebooks and library in step, the notebooks' own tests, tests/
	@$(MAKE) --no-print-directory fresh
	@echo "== the notebooks' own tests"; IN_TEST=1 OMP_NUM_THREADS=1 nbdev_test --n_workers 2 --do_print --timing
	@echo "== tests/"; OMP_NUM_THREADS=1 python -m pytest -q -n 2 --dist loadfile --durations 12 tests

fast: setup     ## the quick part of the tests (no notebook is run)
	@python -m pytest -q tests -m "not slow"

lab: setup      ## open JupyterLab on the notebooks
	@jupyter lab nbs $$([ "$$(id -u)" = 0 ] && echo --allow-root)

demo: setup     ## the tiny models live on a page, here on this machine (Ctrl-C ends it)
	@reasonflow demo --open

doctor: setup   ## what this machine has, and what to do about what is missing
	@reasonflow doctor

bench: setup    ## frames, steps and answers a second
	@python -m reasonflow.bench

docs: setup     ## the notebooks and pages as HTML, in _docs/ (nothing is run)
	@python docs/build.py

setup: $(VENV)/.ready renderer ## the environment in .venv, and the renderer; nothing is run

# torch first and by exact version: what asks for plain torch later is then content with it
$(VENV)/.ready: settings.ini constraints.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: sudo apt-get install python3-venv"; exit 1; }
	@echo "== installing into $(VENV) (some minutes the first time)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@; echo "== installed: make lab opens the notebooks, make run runs them, make doctor looks at what this machine has"

renderer: $(VENV)/.ready
	@$(BIN)/python -c 'from reasonflow.world import screen; screen(32)' 2>/dev/null || { \
	  echo "== installing the off-screen renderer (libosmesa6)"; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq libosmesa6 >/dev/null; \
	  elif command -v sudo >/dev/null && command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then sudo apt-get update -qq && sudo apt-get install -y -qq libosmesa6 >/dev/null; fi; \
	  $(BIN)/python -c 'from reasonflow.world import screen; screen(32)' || { echo "The renderer is missing. On Debian, Ubuntu or Colab: sudo apt-get install libosmesa6"; exit 1; }; }

fresh:          ## are the library and the notebooks in step?
	@echo "== notebooks and library in step"
	@nbdev_clean && nbdev_export
	@git diff --exit-code --stat -- nbs reasonflow || { echo "The notebooks and the library disagree: run nbdev_clean and nbdev_export, and commit the result."; exit 1; }

libero: $(VENV)/.libero ## LIBERO and robosuite, for Stage 5

# without their own dependencies, which would bring another torch
$(VENV)/.libero: $(VENV)/.ready
	@echo "== installing LIBERO and robosuite (200 MB)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt scipy numba opencv-python-headless pyyaml easydict cloudpickle termcolor future h5py jupytext networkx \
	  && $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps robosuite==1.4.0 bddl==1.0.1 hf-libero==0.1.4 \
	  && touch $@ || echo "LIBERO could not be installed; what needs it says so and is left out"

clean:          ## remove the environment and all runs
	rm -rf $(VENV) runs
