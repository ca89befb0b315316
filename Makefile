# Everything a user types. `make run` and `make test` set up what they need; python3 and make are all they assume.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: setup run test slow check bench lock docs clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	touch $(STAMP)

run: setup  ## the product on real recorded candles, user interface on http://localhost:3000
	ALLOW_SYNTHETIC=true $(BIN)/quantum up --replay quantum_assets/sample --examples

test: setup  ## fast tests, in parallel
	$(BIN)/python -m pytest -n 2 -m "not slow" -q

slow: setup  ## whole stacks, browsers, hundreds of symbols
	$(BIN)/python -m pytest -m slow -q

check: setup  ## style, types, definitions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/dg check defs

bench: setup  ## everything measured, about an hour, into benchmarks/results and benchmarks/README.md
	$(BIN)/python -m benchmarks

docs: setup  ## regenerate what is generated
	$(BIN)/quantum keys > docs/keys.md
	$(BIN)/quantum prove --list > docs/proofs.md

lock: setup  ## renew requirements.lock after a change of pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header --group dev --quiet pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .quantum .pytest_cache .mypy_cache .ruff_cache .hypothesis
