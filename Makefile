# The commands of this project; README.md tells what each does.
export PORT TABLE_PORT ISSUER_PORT CLAIMS BASE_URL TOKEN ROUNDS DURATION STARTS ROWS AGAINST
# As it was written: make would take a $ in it for its own.
override CLAIMS := $(value CLAIMS)

PYTHON := .venv/bin/python

.PHONY: run services token test test-sdk test-infra soak bench smoke clean python node sdk azmcp bench-packages

run: python node
	@$(PYTHON) infra/local/run.py

services: python node
	@$(PYTHON) infra/local/run.py --services

token: python
	@$(PYTHON) infra/local/issuer.py token

test: python node
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/pytest

# As long as asked: make soak SECONDS=600
SECONDS := 60
soak: python node
	@PYTHONPATH=infra/local:tests $(PYTHON) tests/exactly_once.py $(SECONDS)

# The SDKs warn of their own deprecations and leave connections open.
test-sdk: sdk node
	.local/sdk/bin/python -m pytest tests/sdk -W default --disable-warnings

test-infra: python azmcp
	.venv/bin/pytest tests/infra/test_types.py
	@infra/local/setup.sh azure-cli
	.venv/bin/pytest tests/infra/test_azure_cli.py

smoke: python
	@$(PYTHON) tests/smoke.py

bench: bench-packages node
	@PYTHONPATH=$(CURDIR)/infra/local .local/bench/bin/python tests/bench/bench.py

clean:
	@if cmp -s local.settings.json infra/local/local.settings.json; then rm local.settings.json; fi
	rm -rf .venv .local .hypothesis .mypy_cache .pytest_cache .ruff_cache infra/local/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

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
