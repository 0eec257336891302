# Two commands do everything: `make run` and `make test`. Works with GNU make 3.81 and later.
#
#   make run RECIPE=pipelines/tiny_shakespeare_nanogpt
#   make run PYTHON=python3.12                  the Python that makes the environment

PYTHON ?= python3
RECIPE ?= .
PROMPT ?=
LIKE ?= pipelines/finetune_shakespeare
VENV ?= .venv

BIN := $(VENV)/bin
READY := $(VENV)/ready

# dvc.yaml says `python`: the environment's own.
export PATH := $(abspath $(BIN)):$(PATH)
# Nothing here reports to anyone.
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
# Prefect's database and settings live here, apart from the user's own.
export PREFECT_HOME := $(CURDIR)/.prefect
# `value`, so that neither make nor the shell reads anything into a prompt.
export PROMPT_TEXT := $(value PROMPT)

.PHONY: help run finetune-shakespeare finetune baselines export push-to-hub test torture lint types check flow join deploy undeploy sample ui sync-tracking bench recipes lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-24s%s\n", $$1, $$2}'

run: $(READY) ## do everything: environment, download, tokenize, train, eval, sample, report (RECIPE=)
	$(BIN)/python -m dvc repro "$(RECIPE)/dvc.yaml"
	@cd "$(RECIPE)" && python -m nanogpt.report

# Threads that wait for each other at large products need not burn a core that others want.
finetune-shakespeare finetune baselines: export GOMP_SPINCOUNT := 2000

finetune-shakespeare: $(READY) ## fine-tune a pretrained model on Shakespeare: minutes on two CPU cores
	@$(MAKE) run RECIPE=pipelines/finetune_shakespeare

finetune: $(READY) ## fine-tune on your text: make finetune CORPUS='path/to/*.txt' (BASE= NAME= PROMPT= LIKE=)
	$(if $(CORPUS)$(BASE),,$(error say CORPUS='path/to/*.txt', BASE= or both; `make help` lists the rest))
	@recipe=$$(python -m pipelines.new --like "$(LIKE)" $(if $(NAME),--name "$(NAME)") \
	  --corpus "$(CORPUS)" $(if $(BASE),--base "$(BASE)") \
	  $(if $(value PROMPT),--prompt "$$PROMPT_TEXT")) && $(MAKE) run RECIPE="$$recipe"

baselines: $(READY) ## score pretrained models as they are: a table (BASES="gpt2 smollm2-135m" CORPUS=)
	@$(BIN)/python -m pipelines.baselines $(if $(CORPUS),--corpus "$(CORPUS)") $(BASES)

export: $(READY) ## write a model for other programs: MODEL=models:/name@champion (FORMAT=hf, gguf or peft; DTYPE= OUT=)
	$(if $(MODEL),,$(error say MODEL=models:/<name>@champion, or a model directory))
	@$(BIN)/python -m nanogpt.export --model "$(MODEL)" $(if $(FORMAT),--format "$(FORMAT)") \
	  $(if $(DTYPE),--dtype "$(DTYPE)") $(if $(OUT),--out "$(OUT)")

push-to-hub: $(READY) ## upload a model to the Hugging Face hub: MODEL= REPO=user/name (DRY_RUN=1 PUBLIC=1)
	$(if $(and $(MODEL),$(REPO)),,$(error say MODEL= and REPO=user/name))
	@$(BIN)/python -m nanogpt.push --model "$(MODEL)" --repo "$(REPO)" \
	  $(if $(PUBLIC),--public) $(if $(DRY_RUN),--dry-run)

test: $(READY) ## run the tests, a file at a time on each of two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile

torture: $(READY) ## kill trainings at a hundred random instants, and lose a host: half an hour
	$(BIN)/python -m pytest -m torture -s

lint: $(READY) ## check style, imports and format
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(READY) ## check the types
	$(BIN)/python -m mypy

check: lint types test ## lint, types and test

flow: $(READY) ## run a recipe as a Prefect flow; needs no server (RECIPE=)
	$(BIN)/python -m pipelines.flows "$(RECIPE)"

join: $(READY) ## train on several machines: run it on each (machine.nodes, machine.rendezvous) (RECIPE=)
	@cd "$(RECIPE)" && data=$$(sed -n 's/^data: *\([^ ]*\).*/\1/p' params.yaml) && \
	  exec python -m nanogpt.stages.train --tokens "$$data/tokens" --base "$$data/base" \
	  --model "$$data/model" --curves "$$data/curves" --metrics "$$data/train.json"

deploy: $(READY) ## start a Prefect server and a worker on this machine, apply prefect.yaml (PORT=4200)
	$(BIN)/python -m pipelines.local up $(if $(PORT),--port $(PORT))

undeploy: $(READY) ## stop what `make deploy` started
	$(BIN)/python -m pipelines.local down

sample: $(READY) ## play with the trained model: make sample PROMPT="ROMEO:" (RECIPE=)
	@cd "$(RECIPE)" && python -m nanogpt.stages.sample \
	  --model "$$(sed -n 's/^data: *\([^ ]*\).*/\1/p' params.yaml)/model" \
	  $(if $(value PROMPT),--prompt "$$PROMPT_TEXT")

ui: $(READY) ## show the runs in MLflow, at http://127.0.0.1:5000
	$(BIN)/python -m mlflow ui

sync-tracking: $(READY) ## send what waits for MLflow: its server was down, or too slow
	@$(BIN)/python -m nanogpt.outbox

bench: $(READY) ## measure beside nanoGPT, write docs/benchmarks.md (PEER=path SEEDS=3 ONLY=steps TEXT=)
	$(BIN)/python -m benchmarks $(if $(PEER),--peer "$(PEER)") $(if $(SEEDS),--seeds $(SEEDS)) \
	  $(if $(ONLY),--only "$(ONLY)") $(if $(TEXT),--text "$(TEXT)")

recipes: ## copy dvc.yaml into each recipe's folder
	@for params in pipelines/*/params.yaml; do cp -v dvc.yaml "$${params%/*}/dvc.yaml"; done

# torch pins its CUDA packages itself, and its CPU builds need none of them.
CUDA := cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti \
  nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile \
  nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 \
  nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx triton

define LOCK_HEADER
# Every package that `make` installs, resolved by `make lock` from pyproject.toml's ranges for
# Python 3.11 to 3.13 on Linux and on macOS 14 or later with Apple silicon. Pins that still fit
# are kept: delete this file first to take the newest of everything. Without torch's CUDA packages,
# which torch pins itself, so that a CPU build brings none; without hashes, because builds of torch
# differ from index to index.
endef
export LOCK_HEADER

lock: $(VENV)/uv/bin/uv ## resolve pyproject.toml's ranges into requirements.lock
	@touch requirements.lock
	$(VENV)/uv/bin/uv pip compile --quiet pyproject.toml --extra dev --universal \
	  --python-version 3.11 --no-header --no-annotate $(CUDA:%=--no-emit-package %) \
	  --output-file requirements.lock
	@{ printf '%s\n' "$$LOCK_HEADER"; cat requirements.lock; } > $(VENV)/lock
	@cp $(VENV)/lock requirements.lock

$(VENV)/uv/bin/uv:
	$(PYTHON) -m venv $(VENV)/uv
	$(VENV)/uv/bin/python -m pip install --quiet uv

clean: ## remove the environment and caches of tools; artifacts, runs and DVC's cache stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find nanogpt pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) \
	  else "Python 3.11, 3.12 or 3.13 is needed, and %s is %d.%d; name one: make PYTHON=python3.12" \
	  % ((sys.executable,) + v))'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps \
	  --no-build-isolation --editable .
	@touch $@
