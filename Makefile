# The commands of this project; README.md says what each does.
export PORT TABLE_PORT ISSUER_PORT CLAIMS BASE_URL TOKEN ROUNDS DURATION STARTS ROWS LINES AGAINST FILE BUSINESS
# As it was written: make would expand a $ in it.
override CLAIMS := $(value CLAIMS)

PYTHON := .venv/bin/python

.PHONY: run services token check test lock test-sdk test-infra soak bench smoke import export reindex clean python node sdk azmcp bench-packages

run: python node
	@$(PYTHON) -m infra.local.run

services: python node
	@$(PYTHON) -m infra.local.run --services

token: python
	@$(PYTHON) -m infra.local.issuer token

check: lint
	.venv/bin/pytest tests/unit

test: lint node
	.venv/bin/pytest

lint: python
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

PIP_COMPILE = CUSTOM_COMPILE_COMMAND="make lock" .local/lock/bin/pip-compile -q --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links
# Newer versions too: make lock OPTIONS=--upgrade
OPTIONS :=
lock: lock-tools
	$(PIP_COMPILE) $(OPTIONS) -o requirements.txt pyproject.toml
	$(PIP_COMPILE) $(OPTIONS) --extra cli --extra test -c requirements.txt -o tests/requirements.txt pyproject.toml
	$(PIP_COMPILE) $(OPTIONS) --extra cli --extra test --extra sdk -c tests/requirements.txt -o tests/sdk/requirements.txt pyproject.toml
	$(PIP_COMPILE) $(OPTIONS) --extra cli --extra test --extra bench -c tests/requirements.txt -o tests/bench/requirements.txt pyproject.toml
	echo msmcp-azure | $(PIP_COMPILE) $(OPTIONS) -o tests/infra/requirements.txt -
	echo azure-cli | $(PIP_COMPILE) $(OPTIONS) -o tests/infra/azure-cli.txt -

SECONDS := 60
soak: python node
	@$(PYTHON) -m tests.support.soak $(SECONDS)

# The SDKs raise deprecation warnings of their own and leave connections open.
test-sdk: sdk
	.local/sdk/bin/python -m pytest tests/sdk -W default --disable-warnings

test-infra: python azmcp
	.venv/bin/pytest tests/infra/test_types.py
	@infra/local/setup.sh azure-cli
	.venv/bin/pytest tests/infra/test_azure_cli.py

# Options: OPTIONS='--skip-known --rejects rejects.csv'
SERVICE = --business "$$BUSINESS" --url "http://127.0.0.1:$${PORT:-7071}" $(OPTIONS)
import: python
	@TOKEN="$$($(PYTHON) -m infra.local.issuer token)" $(PYTHON) -m customers import "$$FILE" $(SERVICE)

export: python
	@TOKEN="$$($(PYTHON) -m infra.local.issuer token)" $(PYTHON) -m customers export $${FILE:+-o "$$FILE"} $(SERVICE)

reindex: python
	@CUSTOMERS_STORAGE="$$($(PYTHON) -m infra.local.run --storage)" $(PYTHON) -m customers reindex

smoke: python
	@$(PYTHON) tests/smoke.py

bench: bench-packages node
	@.local/bench/bin/python -m tests.bench.bench

clean:
	@if cmp -s local.settings.json infra/local/local.settings.json; then rm local.settings.json; fi
	rm -rf build *.egg-info .venv .local .hypothesis .mypy_cache .pytest_cache .ruff_cache infra/local/node_modules tests/sdk/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

lock-tools:
	@infra/local/setup.sh lock

python:
	@infra/local/setup.sh python

sdk:
	@infra/local/setup.sh sdk

azmcp:
	@infra/local/setup.sh azmcp

bench-packages:
	@infra/local/setup.sh bench

node:
	@infra/local/setup.sh node
