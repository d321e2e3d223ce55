# Needs Python 3.11 or newer, pip and make. Everything is installed into .venv by the first target that wants it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Idle OpenMP threads that spin slow small operations down many times over as soon as a neighbour is busy.
export OMP_WAIT_POLICY := PASSIVE
export TOKENIZERS_PARALLELISM := false
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: install demo test test-long check bench docs site

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(INSTALLED)

demo: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/sensekd demo

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not long" --cov --cov-report=term --cov-fail-under=85

test-long: check
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# `make bench ONLY=name` for one.
bench: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

docs: $(INSTALLED)
	$(BIN)/python -m typer sensekd.cli.main utils docs --name sensekd --title "Command line" --output docs/cli.md
	$(BIN)/python docs/recipe_keys.py > docs/reference-recipe.md

# Into site/, to be opened from the disk; a warning is an error.
site: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
