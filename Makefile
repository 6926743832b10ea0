.DEFAULT_GOAL := help
BIN := .venv/bin

.PHONY: help
help: ## Show this
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Make this checkout ready to run: .venv, dependencies, Valkey (the others do it by themselves)
	@deploy/bootstrap.sh

.PHONY: console
console: setup ## Build the console, which `penstock up` serves (Node 20.19 or newer, or the nodejs wheel)
	@$(BIN)/python deploy/console.py

.PHONY: demo
demo: setup ## Run the census of the standard library, with workers killed on the way, and check every total
	@cd examples && ../$(BIN)/python -m census.demo $(ARGS)

.PHONY: test
test: ## Run all tests, on real nats-server and Valkey (ARGS="-k name" is passed to pytest)
	@deploy/bootstrap.sh --for-tests
	@$(BIN)/python deploy/console.py --if-possible
	@$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: bench
bench: setup ## Measure Penstock and its peers on this machine (ARGS="--quick", --only, --systems; --help says more)
	@cd tests && ../$(BIN)/python -m benchmarks $(ARGS)

MINUTES ?= 10
.PHONY: soak
soak: setup ## Random faults over random load for MINUTES=10, then check that all was kept (ARGS="--seed 1 --rate 20")
	@cd tests && ../$(BIN)/python -m soak --minutes $(MINUTES) $(ARGS)

.PHONY: docs
docs: ## Build the docs as a site into build/docs, with all links checked (ARGS=serve: read it on port 8000)
	@deploy/bootstrap.sh --for-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs --quiet $(or $(ARGS),build --strict)

.PHONY: lint
lint: setup ## Check style, format, types and who may import whom
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyright
	@$(BIN)/lint-imports

.PHONY: format
format: setup ## Put the code into its format, and mend what can be mended
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

.PHONY: up
up: setup ## Run Penstock in the foreground, with its data in .penstock (ARGS="--nats-port 4222" is passed on)
	@$(BIN)/python deploy/console.py --if-possible
	@$(BIN)/penstock up $(ARGS)
