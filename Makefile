# Each target sets itself up: a virtual environment in .venv, and into it only what the target needs.
# A stamp named after the contents of pyproject.toml and constraints.txt says that this was done.

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
VENV   := .venv
BIN    := $(VENV)/bin
HASH   := $(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-12)

RIVALS := benchmarks/rivals

DEV    := $(VENV)/.installed-dev-$(HASH)
DEMO   := $(firstword $(wildcard $(DEV)) $(VENV)/.installed-demo-$(HASH))
LLAMA  := $(VENV)/.installed-llama-$(HASH)
DOCS   := $(VENV)/.installed-docs-$(HASH)

# The variables reach the build environment of the editable install too.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test check format docs reproduce bench clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'

demo: $(DEMO)  ## ask the embedded model an equation of each difficulty
	@$(BIN)/zip-introspect demo
	@echo 'Ask one of your own: $(BIN)/zip-introspect ask "Solve 7*x+12=96"'

test: $(LLAMA)  ## run every test that the installed extras allow
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

check: $(DEV)  ## formatting, lint, types and the import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV)  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DOCS)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

reproduce: $(DEV)  ## the figures of docs/results.md from the embedded model
	@mkdir -p build
	$(BIN)/zip-introspect rollouts abacus build/abacus.parquet --samples 16 --limit 500 --seed 0
	$(BIN)/zip-introspect score build/abacus.parquet build/scored.parquet --reward-model $(RIVALS)/reward_model --judge $(RIVALS)/judge
	$(BIN)/zip-introspect score build/scored.parquet build/lite.parquet --joints-of $(RIVALS)/lite
	$(BIN)/zip-introspect evaluate build/scored.parquet --lite build/lite.parquet --out build/results \
	    --training "with the KL term=$(RIVALS)/with_kl.json" --training "without it=$(RIVALS)/without_kl.json"

bench: $(LLAMA)  ## time decisions, the search loop, many callers, kept prompts, growth, streaming, the start; JSON in build/bench/
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/decision_time.py --out build/bench/decision_time.json
	$(BIN)/python benchmarks/introspection_overhead.py --out build/bench/introspection_overhead.json
	$(BIN)/python benchmarks/token_confidences.py --out build/bench/token_confidences.json
	$(BIN)/python benchmarks/search_loop.py --out build/bench/search_loop.json
	$(BIN)/python benchmarks/growth.py --out build/bench/growth.json
	$(BIN)/python benchmarks/streaming.py --out build/bench/streaming.json
	$(BIN)/python benchmarks/concurrent_callers.py --out build/bench/concurrent_callers.json
	$(BIN)/python benchmarks/prefix_reuse.py --out build/bench/prefix_reuse.json
	$(BIN)/python benchmarks/start_up.py --out build/bench/start_up.json

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "No python3 was found; install Python 3.11 or later (Debian: apt install python3-venv)." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$(PYTHON) is $$($(PYTHON) --version); zip-introspect needs 3.11 or later: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments; install its venv module (Debian: apt install python3-venv)." >&2; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo-$(HASH): $(VENV)/pyvenv.cfg
	@echo "Installing the library, PyTorch and transformers (a few minutes, once)"
	@$(PIP_INSTALL) --editable ".[cli,transformers]"
	@touch $@

$(DEV): $(VENV)/pyvenv.cfg
	@echo "Installing the library and the development tools (a few minutes, once)"
	@$(PIP_INSTALL) --editable ".[dev]"
	@touch $@

$(LLAMA): $(DEV)
	@if command -v c++ >/dev/null; then \
	    echo "Building llama.cpp (about five minutes, once)"; \
	    $(PIP_INSTALL) --editable ".[llama-cpp]" && touch $@; \
	else \
	    echo "No C++ compiler was found, so the llama.cpp backend and its tests are left out (Debian: apt install g++)"; \
	fi

$(DOCS): $(VENV)/pyvenv.cfg
	@echo "Installing the library and the documentation tools (once)"
	@$(PIP_INSTALL) --editable ".[docs]"
	@touch $@
