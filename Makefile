# `make run` opens Cutaway, `make test` checks it; both first do what is missing of the set-up (docs/setup.md).

PYTHON ?= python3
BIN := .venv/bin

.PHONY: run setup setup-dev test soak screenshots

run: setup  ## the page; ARGS="--no-browser --port 9000" goes to `cutaway look`
	@$(BIN)/cutaway look $(ARGS)

setup:
	@$(PYTHON) tools/setup.py

setup-dev:
	@$(PYTHON) tools/setup.py --dev

test: setup-dev  ## everything the continuous integration checks
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/build_page.py npm run check
	$(BIN)/python tools/build_page.py npm run test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

soak: setup-dev  ## hours of use in a row; not part of `make test`
	$(BIN)/python benchmarks/soak.py $(ARGS)

screenshots: setup-dev  ## the pictures of README.md and docs/
	$(BIN)/python tools/screenshots.py $(ARGS)
