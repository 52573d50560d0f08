# The commands of this project; README.md says what each does.
export PORT TABLE_PORT ISSUER_PORT CLAIMS BASE_URL TOKEN BUSINESS ROUNDS DURATION STARTS ROWS LINES AGAINST FUNCTIONS_HOST
# As it was written: make would expand a $ in it.
override CLAIMS := $(value CLAIMS)
override ARGS := $(value ARGS)

PYTHON := .venv/bin/python

.PHONY: run services token check test lock test-docs test-sdk test-func test-infra snapshots screenshot viewer soak bench smoke import export backup restore reindex members package clean python node docs sdk bench-packages

run: python node viewer
	@$(PYTHON) -m infra.local.run

services: python node viewer
	@$(PYTHON) -m infra.local.run --services

token: python
	@$(PYTHON) -m infra.local.issuer token

check: lint
	.venv/bin/pytest tests/unit

test: lint node docs
	.venv/bin/pytest -n 2 --dist worksteal
	.local/docs/bin/python -m pytest -n 2 --dist loadfile tests/docs

lint: python
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

PIP_COMPILE = CUSTOM_COMPILE_COMMAND="make lock" .local/lock/bin/pip-compile -q --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links
# Newer versions too: make lock OPTIONS=--upgrade; and whatever else a command takes.
OPTIONS :=
lock: lock-tools
	$(PIP_COMPILE) $(OPTIONS) -o requirements.txt pyproject.toml
	$(PIP_COMPILE) $(OPTIONS) --extra cli --extra test -c requirements.txt -o tests/requirements.txt pyproject.toml
	$(PIP_COMPILE) $(OPTIONS) --extra cli --extra test --extra docs -c tests/requirements.txt -o tests/docs/requirements.txt pyproject.toml
	$(PIP_COMPILE) $(OPTIONS) --extra cli --extra test --extra sdk -c tests/requirements.txt -o tests/sdk/requirements.txt pyproject.toml
	$(PIP_COMPILE) $(OPTIONS) --extra cli --extra test --extra bench -c tests/requirements.txt -o tests/bench/requirements.txt pyproject.toml
	echo azure-cli | $(PIP_COMPILE) $(OPTIONS) -o tests/infra/azure-cli.txt -

SECONDS := 60
soak: python node
	@$(PYTHON) -m tests.support.soak $(SECONDS)

test-docs: docs
	.local/docs/bin/python -m pytest -n 2 --dist loadfile tests/docs

screenshot: docs
	.local/docs/bin/python -m tests.docs.screenshot

viewer:
	@infra/local/setup.sh viewer

# The SDKs raise deprecation warnings of their own and leave connections open.
test-sdk: sdk
	.local/sdk/bin/python -m pytest tests/sdk -W default --disable-warnings

# Azure's own host in place of the local one: Azure Functions Core Tools, from npm.
test-func: export FUNCTIONS_HOST = func
test-func: python node
	.venv/bin/pytest tests/service
	@$(PYTHON) -m tests.support.soak $(SECONDS)

test-infra: python
	@infra/local/setup.sh kusto
	@infra/local/setup.sh azure-cli
	.venv/bin/pytest -n 2 --dist loadfile $(addprefix tests/infra/test_,bicep.py queries.py azure_cli.py deployment.py package.py)

snapshots: python
	@$(PYTHON) -m tests.support.bicep

COMMAND = CUSTOMERS_STORAGE="$$($(PYTHON) -m infra.local.run --storage)" $(PYTHON) -m customers
FILE = .local/customers-$(shell date +%Y-%m-%dT%H%M%S).ndjson.gz
backup: python
	@$(COMMAND) backup -o "$(FILE)" $(OPTIONS)

restore: python
	@$(COMMAND) restore $(if $(FILE),"$(FILE)") $(OPTIONS)

# A file has no default here. Options: OPTIONS='--skip-known --rejects rejects.csv'
import export restore: FILE =
SERVICE = --business "$$BUSINESS" --url "http://127.0.0.1:$${PORT:-7071}" $(OPTIONS)
import: python
	@TOKEN="$$($(PYTHON) -m infra.local.issuer token)" $(PYTHON) -m customers import "$(FILE)" $(SERVICE)

export: python
	@TOKEN="$$($(PYTHON) -m infra.local.issuer token)" $(PYTHON) -m customers export $(if $(FILE),-o "$(FILE)") $(SERVICE)

reindex: python
	@$(COMMAND) reindex $(OPTIONS)

members: python
	@$(COMMAND) members $(ARGS)

package:
	@infra/package.sh

smoke: python
	@$(PYTHON) tests/smoke.py

bench: bench-packages node package
	@.local/bench/bin/python -m tests.bench.bench

clean:
	@if cmp -s local.settings.json infra/local/local.settings.json; then rm local.settings.json; fi
	rm -rf .venv .local build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache customers/docs/viewer
	rm -rf infra/local/node_modules infra/viewer/node_modules tests/docs/node_modules tests/infra/node_modules tests/sdk/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

lock-tools:
	@infra/local/setup.sh lock

python:
	@infra/local/setup.sh python

docs:
	@infra/local/setup.sh docs

sdk:
	@infra/local/setup.sh sdk

bench-packages:
	@infra/local/setup.sh bench

node:
	@infra/local/setup.sh node
