# Two commands do everything: `make run` and `make test`. Works with GNU make 3.81 and later.
#
#   make run RECIPE=pipelines/tiny_shakespeare_nanogpt
#   make run PYTHON=python3.12                  the Python that makes the environment

PYTHON := python3
RECIPE := .
LIKE := pipelines/finetune_shakespeare
VENV := .venv

# Only what is typed after `make` counts: a variable of the environment that happens to have one of
# these names was not meant. What was typed reaches a command as it is, through the environment of
# the shell, where neither make nor the shell reads anything into it.
TYPED := PROMPT MODEL FORMAT DTYPE OUT REPO PUBLIC DRY_RUN CORPUS BASE BASES FIELD NAME PORT PEER SEEDS ONLY TEXT TRACK REMOVE OVERRIDES PREFECT_PORT REVS REASON KEY WITH PLAN KEEP ENVIRONMENT OF MINUTES DEPTH RATIO HOURS CHECK
$(foreach name,$(TYPED),$(if $(filter command,$(firstword $(origin $(name)))),,$(eval $(name) :=)))
unexport $(TYPED) RECIPE LIKE PYTHON VENV PYTHONSAFEPATH
$(foreach name,$(TYPED) RECIPE LIKE,$(eval export TYPED_$(name) := $$(value $(name))))
# $(call given,option,NAME) is --option=<what NAME is>, or nothing; $(call flag,…) for yes and no
given = $(if $(value $2),--$1="$$TYPED_$2")
flag = $(if $(filter-out 1 yes true on 0 no false off,$(value $2)),$(error $2=$(value $2): say 1 or 0),$(if $(filter 1 yes true on,$(value $2)),--$1))
recipe = --recipe="$$TYPED_RECIPE"
# `exec`, so that make sends a signal on to it and not to a shell in between
repro = exec python -m pipelines.run repro -- "$1"
# `nanogpt`, but also where this folder was moved and the scripts in .venv/bin still name the old one
nanogpt = python -m nanogpt.commands

ready := nanogpt.common.ready
BIN := $(VENV)/bin
READY := $(VENV)/ready
# for what makes room or stops something: no question about the place where all is there already
MADE := $(if $(wildcard $(READY)),,$(READY))

ifeq ($(OS),Windows_NT)
$(error native Windows has not the locks, links and signals that this needs; install WSL (wsl --install), clone this into its own file system and run it there)
endif

# A typo would be left out in silence. Another make's variables are none of ours.
KNOWN := $(TYPED) RECIPE LIKE PYTHON VENV SHELL MAKEFLAGS
ifeq ($(MAKELEVEL),0)
$(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(if $(filter-out $(KNOWN),$(name)),\
  $(error $(name): nothing here has that name; known: $(KNOWN). What is for the environment stands before make: $(name)=... make))))
endif

# dvc.yaml says `python`: the environment's own.
export PATH := $(abspath $(BIN)):$(PATH)
# Nothing here reports to anyone; nor does what is typed without make, by silence.pth below.
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
# A user id without a name, as in `docker run --user 12345`: DVC asks for the name.
ifeq ($(LOGNAME)$(USER),)
export LOGNAME := $(shell id -un 2>/dev/null)
endif
# Prefect's database and settings live here, apart from the user's own.
export PREFECT_HOME := $(CURDIR)/.prefect

.PHONY: help run finetune-shakespeare finetune recipe size scaling baselines sample chat export push-to-hub attest verify serve report tokens lineage history promote rollback compare plots reproduce flow join deploy undeploy ui sync-tracking upgrade-mlflow test test-slow torture lint types check bench speedrun gpu recipes lock clean-states clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-24s%s\n", $$1, $$2}'

run: $(READY) ## do everything: environment, download, tokenize, train, eval, sample, report (RECIPE=)
	@$(call repro,$$TYPED_RECIPE)

finetune-shakespeare: $(READY) ## fine-tune a pretrained model on Shakespeare: minutes on two CPU cores
	@$(call repro,pipelines/finetune_shakespeare)

finetune: $(READY) ## fine-tune on your text: make finetune CORPUS=folder (BASE= NAME= PROMPT= FIELD= LIKE=)
	$(if $(value CORPUS)$(value BASE),,$(error say CORPUS='path/to/*.txt', BASE= or both; `make help` lists the rest))
	@exec python -m pipelines.new --run $(call given,like,LIKE) $(call given,name,NAME) $(call given,corpus,CORPUS) \
	  $(call given,base,BASE) $(call given,prompt,PROMPT) $(call given,field,FIELD)

recipe: $(READY) ## make a recipe of your own from another: NAME= (LIKE= CORPUS= BASE= PROMPT= FIELD=)
	$(if $(value NAME),,$(error say NAME=, and LIKE= the folder of the recipe to start from))
	@python -m pipelines.new $(call given,like,LIKE) $(call given,name,NAME) $(call given,corpus,CORPUS) \
	  $(call given,base,BASE) $(call given,prompt,PROMPT) $(call given,field,FIELD)

size: $(READY) ## say what a training will take; another depth sets the rest (RECIPE= DEPTH= RATIO=; NAME= writes it)
	@$(nanogpt) size $(call given,depth,DEPTH) $(call given,ratio,RATIO) $(call given,name,NAME) -- "$$TYPED_RECIPE"

scaling: $(READY) ## train a ladder of small models, fit their law, promise what HOURS=8 bring (RECIPE= CHECK=30)
	@exec $(nanogpt) scaling $(call given,hours,HOURS) $(call given,check,CHECK) -- "$$TYPED_RECIPE"

baselines: $(READY) ## score pretrained models as they are: a table (BASES="gpt2 smollm2-135m" CORPUS=)
	@exec python -m pipelines.baselines $(call given,corpus,CORPUS) -- $(if $(value BASES),$$TYPED_BASES)

sample: $(READY) ## play with a model: make sample PROMPT="ROMEO:" (RECIPE= MODEL=)
	@$(nanogpt) sample $(recipe) $(call given,model,MODEL) $(call given,prompt,PROMPT)

chat: $(READY) ## talk with a model in the terminal (RECIPE= MODEL=)
	@exec $(nanogpt) chat $(recipe) $(call given,model,MODEL)

export: $(READY) ## write a model for other programs: MODEL=models:/name@champion (FORMAT=hf, gguf or peft; DTYPE= OUT=)
	$(if $(value MODEL),,$(error say MODEL=models:/<name>@champion, or a model directory))
	@$(nanogpt) export $(call given,format,FORMAT) $(call given,dtype,DTYPE) $(call given,out,OUT) -- "$$TYPED_MODEL"

push-to-hub: $(READY) ## upload a model to the Hugging Face hub: MODEL= REPO=user/name (DRY_RUN=1 PUBLIC=1)
	$(if $(and $(value MODEL),$(value REPO)),,$(error say MODEL= and REPO=user/name))
	@$(nanogpt) push $(call given,repo,REPO) $(call flag,public,PUBLIC) $(call flag,dry-run,DRY_RUN) -- "$$TYPED_MODEL"

attest: $(READY) ## sign a version, with what it was made of: MODEL=models:/name@champion KEY=private.pem (OUT=)
	$(if $(and $(value MODEL),$(value KEY)),,$(error say MODEL=models:/<name>@<alias> and KEY= a private key))
	@$(nanogpt) attest $(call given,key,KEY) $(call given,out,OUT) -- "$$TYPED_MODEL"

verify: $(READY) ## check a signed model, say what it was made of: MODEL=folder KEY=public.pem
	$(if $(and $(value MODEL),$(value KEY)),,$(error say MODEL= a folder, or models:/<name>@<alias>, and KEY= a public key))
	@$(nanogpt) verify $(call given,key,KEY) -- "$$TYPED_MODEL"

serve: $(READY) ## serve models as OpenAI's clients know it: MODEL="models:/name@champion" or folders (PORT=8000)
	$(if $(value MODEL),,$(error say MODEL=models:/<name>@champion, or a model directory; or two of them))
	@set -f; test ! -e "$$TYPED_MODEL" || exec $(nanogpt) serve $(call given,port,PORT) -- "$$TYPED_MODEL"; \
	  exec $(nanogpt) serve $(call given,port,PORT) -- $$TYPED_MODEL

report: $(READY) ## show what came out of a recipe's last run (RECIPE=)
	@$(nanogpt) report $(recipe)

tokens: $(READY) ## show what the vocabulary made of a recipe's text, and what the text is (RECIPE=)
	@$(nanogpt) tokens -- "$$TYPED_RECIPE"

lineage: $(READY) ## show where a model comes from: MODEL=models:/name@champion (OUT=); what was made from OF=a file, digest, corpus or base
	$(if $(value MODEL)$(value OF),,$(error say MODEL=models:/<name>@<alias> (or a model directory, or a run's id), or OF=))
	@$(nanogpt) lineage $(call given,of,OF) $(call given,out,OUT) -- $(if $(value MODEL),"$$TYPED_MODEL")

history: $(READY) ## show every move of a model's aliases: when, from, to, why (RECIPE= MODEL=)
	@$(nanogpt) history $(recipe) $(call given,model,MODEL)

promote: $(READY) ## make a version champion: MODEL=models:/name/3 REASON="why"
	$(if $(and $(value MODEL),$(value REASON)),,$(error say MODEL=models:/<name>/<version> and REASON="why"))
	@$(nanogpt) promote $(call given,reason,REASON) -- "$$TYPED_MODEL"

rollback: $(READY) ## make the champion before the present one champion again: REASON="why" (RECIPE= MODEL=)
	$(if $(value REASON),,$(error say REASON="why"))
	@$(nanogpt) rollback $(recipe) $(call given,model,MODEL) $(call given,reason,REASON)

compare: $(READY) ## show a recipe's experiments, best first (RECIPE=); two models on one text: MODEL= WITH= (TEXT= OUT=)
	$(if $(value MODEL)$(value WITH),$(if $(and $(value MODEL),$(value WITH)),,$(error say MODEL= and WITH=, two models)))
	@$(if $(value WITH),$(nanogpt) compare $(if $(filter command,$(firstword $(origin RECIPE))),$(recipe)) $(call given,text,TEXT) $(call given,out,OUT) -- "$$TYPED_MODEL" "$$TYPED_WITH",python -m pipelines.compare -- "$$TYPED_RECIPE")

plots: $(READY) ## draw a recipe's curves, now and as committed (RECIPE= REVS="experiments or commits")
	@python -m pipelines.plots $(recipe) -- $(if $(value REVS),$$TYPED_REVS)

reproduce: $(READY) ## build a registered version again, and compare: MODEL= (PLAN=1 KEEP=1 ENVIRONMENT=this)
	$(if $(value MODEL),,$(error say MODEL=models:/<name>@champion, or models:/<name>/<version>))
	@exec python -m pipelines.reproduce $(call flag,plan,PLAN) $(call flag,keep,KEEP) \
	  $(call given,environment,ENVIRONMENT) -- "$$TYPED_MODEL"

flow: $(READY) ## run a recipe as a Prefect flow; needs no server (RECIPE= OVERRIDES='{"train.steps": 100}')
	@exec python -m pipelines.flows $(call given,overrides,OVERRIDES) -- "$$TYPED_RECIPE"

join: $(READY) ## train on several machines: run it on each (machine.nodes, machine.rendezvous) (RECIPE=)
	@exec python -m pipelines.run join -- "$$TYPED_RECIPE"

deploy: $(READY) ## start a Prefect server and a worker on this machine, deploy each recipe (PORT=4200)
	@python -m pipelines.local up $(call given,port,PORT)

undeploy: $(MADE) ## stop what `make deploy` started
	@python -m pipelines.local down

ui: $(READY) ## show MLflow's and Prefect's pages, until Ctrl-C (PORT=5000 PREFECT_PORT=4200)
	@exec python -m pipelines.ui $(call given,port,PORT) $(call given,prefect-port,PREFECT_PORT)

sync-tracking: $(READY) ## send what waits for MLflow: its server was down, or too slow
	@$(nanogpt) sync

upgrade-mlflow: $(READY) ## upgrade the mlflow.db of an older MLflow, and keep a copy of it as it was
	@$(nanogpt) upgrade-mlflow

test: $(READY) ## run the tests, a file at a time on each of two cores: 8 to 14 minutes
	python -m pytest -n 2 --dist loadfile

test-slow: $(READY) ## run the tests that take long: 40 minutes
	python -m pytest -n 2 --dist loadfile -m 'slow and not torture'

torture: $(READY) ## kill and stop trainings, and who waits for them, at random instants: an hour
	python -m pytest -m torture -s

lint: $(READY) ## check style, format, and who imports whom
	python -m ruff check .
	python -m ruff format --check .
	lint-imports

types: $(READY) ## check the types
	python -m mypy

check: lint types test ## lint, types and test

bench: $(READY) ## measure beside nanoGPT, write docs/benchmarks.md (PEER=path SEEDS=3 ONLY=steps TEXT=)
	@python -m benchmarks $(call given,peer,PEER) $(call given,seeds,SEEDS) $(call given,only,ONLY) $(call given,text,TEXT)

speedrun: $(READY) ## train against the clock, write docs/speedrun.md (TRACK=to_1.88,in_120s,default SEEDS=3 PEER=path TEXT=)
	@python -m benchmarks.speedrun $(call given,track,TRACK) $(call given,seeds,SEEDS) $(call given,peer,PEER) $(call given,text,TEXT)

gpu: ## check and measure what needs a GPU, write docs/gpu.md; installs nothing (TEXT= PEER= ONLY= MINUTES=30)
	@exec $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.contact $(call given,text,TEXT) $(call given,peer,PEER) \
	  $(call given,only,ONLY) $(call given,minutes,MINUTES)

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

clean-states: $(MADE) ## list what trainings resume from, with sizes (REMOVE=1)
	@$(nanogpt) clean --states $(call flag,remove,REMOVE)

clean: ## remove the environment and caches of tools; artifacts, runs and DVC's cache stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find nanogpt pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +

# What must hold here is asked by each target, before anything is installed or fetched.
.PHONY: place
place:
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if \
	  (3, 11) <= v <= (3, 13) else "Python 3.11, 3.12 or 3.13 is needed, and %s is %d.%d;" \
	  " name one: make PYTHON=python3.12" % ((sys.executable,) + v))'
	@$(if $(wildcard $(BIN)/python),$(BIN)/python -m $(ready),$(PYTHON) -m $(ready) $(VENV))

# Each Python of the environment reads this when it starts: MLflow listens to variables alone.
define SILENCE
import os; os.environ.update({"DO_NOT_TRACK": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"} | os.environ)
endef
export SILENCE

INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
$(READY): requirements.lock pyproject.toml | place
	@mkdir -p $(VENV)
	@echo "installing the environment, once: about 3 minutes and 2.3 GB in $(VENV); log: $(VENV)/install.log" >&2
	@{ $(BIN)/python -m pip --version || $(PYTHON) -m venv $(VENV); \
	  $(INSTALL) -r requirements.lock && \
	  $(INSTALL) --no-deps --no-build-isolation --editable .; } > $(VENV)/install.log 2>&1 || { \
	  tail -n 15 $(VENV)/install.log >&2; echo "the environment was not installed: above, the last lines of" \
	  "$(VENV)/install.log; mend that, then run the same command again" >&2; exit 1; }
	@printf '%s\n' "$$SILENCE" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/silence.pth"
	@touch $@
