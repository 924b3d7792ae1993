# Everything begins here: each target sets up what it needs. `make help` lists them.

PYTHON ?= $(or $(shell command -v python3.11),python3)
BIN := .venv/bin
# Options for `keyahead up`, such as: make run ARGS="--grpc-port 6000"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv run test check proto proto-check slo slo-check bench lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

venv: ## Make or mend .venv
	@$(PYTHON) scripts/bootstrap.py

run: venv ## Set up what is missing, start everything and serve until Ctrl-C
	@$(BIN)/keyahead up $(ARGS)

test: venv ## Run all tests, those against the real processes included
	@$(BIN)/python -m pytest $(ARGS)

check: venv proto-check slo-check ## Lint, types, import rules, proto rules, generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	@if git rev-parse --quiet --verify main:buf.yaml > /dev/null; then $(BIN)/buf breaking --against '.git#branch=main'; fi

proto: venv ## Generate the Python code of proto/
	$(BIN)/python scripts/gen_proto.py

proto-check: venv ## Check that the generated code is current
	@$(BIN)/python scripts/gen_proto.py --check

slo: venv ## Make Prometheus' rules and Grafana's dashboard from deploy/slo.yaml
	$(BIN)/python scripts/gen_slo.py

slo-check: venv ## Check that they are current
	@$(BIN)/python scripts/gen_slo.py --check

bench: venv ## Repeat the figures of the engine, layouts and infilling in benchmarks/
	for each in engine greedy layouts infilling; do $(BIN)/python benchmarks/$$each.py $(ARGS) || exit 1; done

lock: venv ## Renew requirements.lock from pyproject.toml, keeping versions that still fit (takes some minutes)
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --extra dev --output-file requirements.lock pyproject.toml

clean: ## Remove what the targets made in this folder; the cache of the user stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build src/keyahead.egg-info
