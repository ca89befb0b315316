# Everything a user types. `make run` and `make test` set up what they need; python3 and make are all they assume.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
FEED := .venv-feed
TOOLS := .venv-tools
LOCKED := --disable-pip-version-check --quiet --require-hashes --no-deps
LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet

# Bytecode is kept: every program of the stack and of the tests would compile the whole product anew at each start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup run test slow check bench lock docs feed lab evidence tools site audit sbom clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@echo "1/3 Making the environment $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "2/3 Installing the packages of requirements.lock, which takes some minutes the first time"
	@$(BIN)/python -m pip install $(LOCKED) -r requirements.lock
	@echo "3/3 Installing this checkout"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $(STAMP)
	@echo "Installed."

# `exec`: make's child is the product itself, so that what ends make ends it too, and no shell between them leaves it behind.
run: setup  ## the product on real recorded candles, user interface on http://localhost:3000
	@echo "Starting quantum up with ALLOW_SYNTHETIC=true: another shell needs it too, for prove: export ALLOW_SYNTHETIC=true"
	@export ALLOW_SYNTHETIC=true CHALLENGER=$${CHALLENGER-crypto-1m}; \
	exec $(BIN)/quantum up --replay quantum_assets/sample --examples $(ARGS)

test: setup lab  ## fast tests, in parallel
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not slow" -q

slow: setup lab feed  ## whole stacks, browsers, hundreds of symbols
	log=$$(mktemp); $(BIN)/python -m pytest -m "slow and not whole_stack" -q --durations 10 > $$log 2>&1 & beside=$$!; \
	$(BIN)/python -m pytest -m "slow and whole_stack" -q --durations 10; stacks=$$?; \
	wait $$beside; others=$$?; cat $$log; rm $$log; test $$stacks = 0 -a $$others = 0

check: setup  ## style, types, layers, words, definitions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/words.py
	$(BIN)/dg check defs

bench: setup  ## everything measured, about 100 minutes, into benchmarks/results and benchmarks/README.md
	$(BIN)/python -m benchmarks

docs: setup  ## regenerate what is generated
	$(BIN)/quantum settings --reference > docs/settings.md
	$(BIN)/quantum keys > docs/keys.md
	$(BIN)/quantum prove --list > docs/proofs.md
	$(BIN)/quantum keys --acl > deploy/redis/users.acl
	{ $(BIN)/quantum alerts kinds; echo; sed -n '/^## Alerts of Prometheus/,$$p' docs/alerts.md; } > docs/alerts.new && mv docs/alerts.new docs/alerts.md

evidence: setup lab  ## docs/evidence*.md anew, from the bundled sample and files like BTCUSDT_1m_2024.parquet in HISTORY=folder
	$(BIN)/quantum evidence quantum_assets/sample $(wildcard $(HISTORY)/*_1m_*) --profile locked-v1 --profile crypto-1m \
		--out docs/evidence.md --force
	$(BIN)/quantum evidence $(wildcard $(HISTORY)/*_5m_*) --profile locked-v1 --profile crypto-5m --out docs/evidence-5m.md --force

lock: setup  ## renew the lock files after a change of pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(LOCK) --extra s3 --group dev pyproject.toml -o requirements.lock
	$(LOCK) --extra feed --group build pyproject.toml -o requirements-feed.lock
	$(LOCK) --extra lab pyproject.toml --constraints requirements.lock -o requirements-lab.lock
	$(LOCK) --group tools -o requirements-tools.lock

feed: $(FEED)/.installed  ## the exchange feed, in an environment of its own
lab: $(VENV)/.lab  ## what `quantum evidence` compares with, in the same environment; the tests need it
tools: $(TOOLS)/.installed  ## documentation and audit

$(FEED)/.installed: requirements-feed.lock pyproject.toml
	test -x $(FEED)/bin/python || $(PYTHON) -m venv $(FEED)
	$(FEED)/bin/python -m pip install $(LOCKED) -r requirements-feed.lock
	$(FEED)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.lab: requirements-lab.lock $(STAMP)
	$(BIN)/python -m pip install $(LOCKED) -r requirements-lab.lock
	touch $@

$(TOOLS)/.installed: requirements-tools.lock
	test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install $(LOCKED) -r requirements-tools.lock
	touch $@

site: tools  ## the documentation as pages in site/; a broken link or anchor fails
	NO_MKDOCS_2_WARNING=1 $(TOOLS)/bin/mkdocs build --strict --quiet

audit: tools  ## known vulnerabilities of what is locked; says so when they could not be asked for
	$(TOOLS)/bin/python .ci/audit.py requirements.lock requirements-feed.lock requirements-lab.lock

sbom: tools  ## bill of materials of what is locked, CycloneDX JSON, validated against its schema
	$(TOOLS)/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --mc-type application \
		--output-reproducible --validate -o sbom.json

clean:
	rm -rf $(VENV) $(FEED) $(TOOLS) .quantum .pytest_cache .mypy_cache .ruff_cache .hypothesis
