# Every target sets itself up. PYTHON chooses the interpreter, VENV where its packages go, CONSTRAINTS their versions.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints/latest.txt
PYTEST_ARGS ?= -n 2
BIN := $(VENV)/bin
# What the others bring stays out of the ordinary packages: the suite is to hold without them, too.
BESIDE := $(VENV)-beside
BENCH := $(VENV)-bench
# One stamp for each set of packages: a change of what is wanted installs again, nothing else does.
STAMP := $(VENV)/.installed-$(notdir $(CONSTRAINTS))

.PHONY: help demo test faults telemetry test-stack test-soak test-beside stack bench million storm mutants hooks attributes lint docs clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.installed-demo  ## a RAG program rides through faults, with and without stormproof
	$(BIN)/python -m stormproof.demo

test: $(STAMP)  ## unit, client and launcher tests, with real Ollama and Qdrant's real wire
	$(BIN)/python -m pytest -m "not stack and not soak" $(PYTEST_ARGS)

faults: $(STAMP)  ## write docs/faults.md anew, from what the tests of the fault table see
	$(BIN)/python -m pytest tests/clients/faults -k what_becomes --write-faults

telemetry: $(STAMP)  ## write the tables of docs/telemetry.md anew, from telemetry/schema.yaml, and what is emitted where
	$(BIN)/python -m tests.telemetry_page
	$(BIN)/python -m pytest tests/clients/test_contract.py --write-emitted

test-stack: $(STAMP) collector  ## the same RAG program seen by the real collector, Jaeger and Prometheus
	$(BIN)/python -m pytest -m stack

test-soak: $(STAMP)  ## ten thousand operations of each client through faults: counts, spans, permits, memory
	$(BIN)/python -m pytest -m soak tests/soak

test-beside:  ## beside other instrumentations and below frameworks; then all tests that call a client, with the others on
	@$(MAKE) --no-print-directory $(BESIDE)/.installed-beside VENV=$(BESIDE)
	$(BESIDE)/bin/python -m pytest tests/beside $(PYTEST_ARGS)
	$(BESIDE)/bin/python -m pytest -p tests.beside.plugin tests/clients tests/demo $(PYTEST_ARGS)

stack: $(VENV)/bin/python collector  ## collector, Jaeger and Prometheus on their usual ports, until Ctrl-C
	$(BIN)/python collector/stack.py

bench:  ## what a protected call costs, beside a bare one and beside other libraries (40 minutes); writes README's table
	@$(MAKE) --no-print-directory $(BENCH)/.installed-bench VENV=$(BENCH)
	$(BENCH)/bin/python -m benchmarks.core
	$(BENCH)/bin/python -m benchmarks.overhead --readme

million:  ## a million calls with everything on: memory, open and lost spans (20 minutes)
	@$(MAKE) --no-print-directory $(BENCH)/.installed-bench VENV=$(BENCH)
	$(BENCH)/bin/python -m benchmarks.million

storm:  ## what retry policies do under overload, by simulation (6 minutes)
	@$(MAKE) --no-print-directory $(BENCH)/.installed-bench VENV=$(BENCH)
	$(BENCH)/bin/python -m benchmarks.storm

mutants: $(VENV)/.installed-mutation  ## mutation testing of resilience/ (an hour); ONLY="budget breaker" for some files, AGAIN=1 for survivors
	$(BIN)/python tests/mutation/run.py $(if $(ONLY),--only $(ONLY)) $(if $(AGAIN),--again)

hooks: $(STAMP)  ## leaves out each hook in turn, and expects tests to fail (20 minutes); ONLY=openai for some
	$(BIN)/python -m tests.mutation.hooks $(if $(ONLY),--only $(ONLY))

attributes: $(STAMP)  ## leaves out each attribute and signal in turn, and expects the conformance test to fail (20 minutes); ONLY=spans for some
	$(BIN)/python -m tests.mutation.attributes $(if $(ONLY),--only $(ONLY))

lint: $(STAMP)  ## ruff and strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## the documentation, into site/
	$(BIN)/mkdocs build --strict --quiet

clean:  ## forget everything that was set up
	rm -rf .venv* .cache collector/.build site

.PHONY: collector
collector:
	@collector/build.sh >/dev/null
	@collector/install_prometheus.sh >/dev/null

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/.installed-demo: $(VENV)/bin/python pyproject.toml
	@echo "setting up $(VENV) (once, under a minute)"
	$(BIN)/python -m pip install --quiet --editable ".[all]" --constraint constraints/latest.txt
	@touch $@

$(VENV)/.installed-bench: $(VENV)/bin/python pyproject.toml constraints/latest.txt constraints/beside.txt constraints/bench.txt
	@echo "setting up $(VENV) with what the benchmarks compare with"
	$(BIN)/python -m pip install --quiet --editable ".[all]" --group bench \
		--constraint constraints/latest.txt --constraint constraints/beside.txt --constraint constraints/bench.txt
	@touch $@

$(VENV)/.installed-beside: $(STAMP) constraints/beside.txt
	@echo "adding the other instrumentations, and the frameworks"
	$(BIN)/python -m pip install --quiet --group beside --constraint $(CONSTRAINTS) --constraint constraints/beside.txt
	@touch $@

$(VENV)/.installed-mutation: $(STAMP)
	$(BIN)/python -m pip install --quiet --group mutation --constraint $(CONSTRAINTS)
	@touch $@

$(STAMP): $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	@echo "setting up $(VENV) (once, under two minutes)"
	$(BIN)/python -m pip install --quiet --editable ".[all,grpc,config]" --group test --group lint --group docs --constraint $(CONSTRAINTS)
	@touch $@
