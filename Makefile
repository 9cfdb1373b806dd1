# One place to run everything. `make` lists the targets; the README shows what each prints.
# Variables: PROFILE=auto|paper|matched|cpu|smoke DATASET= SEEDS="0 1 2" DEVICE=auto|cpu|cuda DATA=folder COPY=name ARGS="flags" ROWS=core|all|settings FORCE=1 GPU=1 JOBS=n
# ROWS=core|all|settings: of PROFILE=matched
# TASK="what one task of a sweep asks, and how often it is tried again"

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

PROFILE ?= auto
DATASET ?=
SEEDS ?=
DEVICE ?= auto
DATA ?=
COPY ?=
ARGS ?=
ROWS ?= core
FORCE ?=
JOBS ?= 0
PAPER ?=
RUNS ?=
GPU ?=
TASK ?=
export PYTHONUTF8 := 1

PAPERS := class2str subclass finegrained triplet hierarchy
FOLDER_class2str := class2str_tf
FOLDER_subclass := subclass_torch
FOLDER_finegrained := finegrained_torch
FOLDER_triplet := triplet_tf
FOLDER_hierarchy := hierarchy_cnn_torch
EXTRA_class2str := tf
EXTRA_subclass := torch
EXTRA_finegrained := torch
EXTRA_triplet := tf
EXTRA_hierarchy := torch
SETS := mnist5k mnist fashion_mnist cifar10 cifar100 svhn pathmnist aircraft flowers102 cars dogs nabirds

# Everything runs in .venv. GPU=1 is for TensorFlow: with CUDA it lies in .venv-tf, apart from torch and torch's CUDA, and
# only its two papers run there. Programs that need both frameworks do without, or refuse GPU=1 where that would
# silently leave TensorFlow on the CPU.
TF_VENV := $(if $(GPU),.venv-tf,.venv)
VENV = .venv
PY = $(VENV)/bin/python
INSTALL = VENV=$(VENV) sh .ci/install
# extras of the papers that PAPER names, or of all
EXTRAS = $(sort $(foreach paper,$(or $(PAPER),$(PAPERS)),$(EXTRA_$(paper))))
ONE_FRAMEWORK = @test -z "$(and $(GPU),$(word 2,$(EXTRAS)))" || { echo "make $@: GPU=1 keeps TensorFlow with CUDA apart from \
	torch and this needs both: name papers of one framework in PAPER, or give GPU= (only torch then has CUDA)" >&2; exit 2; }
REQUEST = --profile "$(PROFILE)" --dataset "$(DATASET)" --seeds "$(SEEDS)" --device "$(DEVICE)" \
	--data-dir "$(DATA)" --copy "$(COPY)" --rows "$(ROWS)" --args="$(ARGS)" $(if $(FORCE),--force)
RUN_FLAGS = $(REQUEST) --jobs "$(JOBS)"
CHOICE = $(addprefix --paper ,$(PAPER)) $(if $(RUNS),--runs "$(RUNS)") $(ARGS)

.PHONY: help setup reproduce plan compare results report verify-data sweep bench gpu-check soak fuzz test lint clean clean-runs clean-data \
	$(addprefix reproduce-,$(PAPERS)) $(addprefix data-,$(SETS))

help: ## list the targets
	@echo 'what most people want:'
	@echo '  make reproduce-class2str                         a paper, both stages on real images, minutes on two cores'
	@echo '  make reproduce-class2str DATASET=folder:photos   the same on your images, one sub-folder for each class'
	@echo '  make compare                                     what the papers claim, and what we found'
	@echo '  make report                                      one page with curves and plots: runs/report.html'
	@echo '  make test                                        the test suite, no network, no GPU'
	@echo
	@echo 'all targets (make TARGET NAME=value ...):'
	@sed -n 's/^\([a-z<>-]*\):.*## \(.*\)/  \1|\2/p; s/^# help: \(.*\)/  \1/p' Makefile | awk -F'|' '{printf "%-22s %s\n", $$1, $$2}'
	@echo
	@echo 'names and values:'
	@echo '  PROFILE=auto|paper|matched|cpu|smoke  DATASET=name  SEEDS="0 1 2"  DEVICE=auto|cpu|cuda  DATA=folder  COPY=name'
	@echo '  ARGS="flags"  ROWS=core|all|settings  FORCE=1  JOBS=n  GPU=1  PAPER=name'
	@echo '  PROFILE=auto is paper (hours) if a GPU is visible, else cpu (minutes); docs/commands.md explains the others'

# help: reproduce-<paper>|both stages and the comparison; <paper>: class2str subclass finegrained triplet hierarchy
# help: data-<set>|fetch, verify and decode one data set (python -m datasets lists them)

setup: ## install everything into .venv; GPU=1: TensorFlow with CUDA into .venv-tf too
	@$(INSTALL) tf torch report cluster dev
	@$(if $(GPU),VENV=$(TF_VENV) sh .ci/install tf cluster)

reproduce-class2str reproduce-triplet: VENV = $(TF_VENV)
$(addprefix reproduce-,$(PAPERS)): reproduce-%:
	@$(INSTALL) $(EXTRA_$*) report
	@$(PY) -m $(FOLDER_$*).reproduce $(RUN_FLAGS)

reproduce: ## every paper (PAPER: only these), one after another
	@for paper in $(or $(PAPER),$(PAPERS)); do $(MAKE) --no-print-directory reproduce-$$paper || exit 1; done

plan: ## list the commands of every paper (PAPER=name: of one) with hours and gigabytes; nothing is run
	$(if $(filter-out $(PAPERS),$(PAPER)),$(error PAPER=$(PAPER): expected one or more of $(PAPERS)))
	@$(INSTALL) base
	@for folder in $(foreach paper,$(or $(PAPER),$(PAPERS)),$(FOLDER_$(paper))); do \
	  $(PY) -m $$folder.reproduce --plan $(RUN_FLAGS) || exit 1; done

compare: ## what the papers claim next to what we found (PAPER=name: all about one; RUNS=folder)
	@$(INSTALL) base
	@$(PY) -m reproduction.compare $(CHOICE)

results: PAPER := $(or $(PAPER),class2str)
results: override PROFILE := $(if $(filter auto,$(PROFILE)),cpu,$(PROFILE))
results sweep: VENV = $(if $(filter torch,$(EXTRAS)),.venv,$(TF_VENV))
results: ## run in a worktree at HEAD, take the records into reproduction/results (PAPER, PROFILE, SEEDS)
	$(ONE_FRAMEWORK)
	@$(INSTALL) base report $(EXTRAS)
	@$(PY) -m reproduction.take_results --papers "$(PAPER)" $(RUN_FLAGS)

report: ## write runs/report.html, one self-contained page (PAPER=name: about one; RUNS=folder)
	@$(INSTALL) report
	@$(PY) -m reproduction.page.report --out runs/report.html $(CHOICE)

$(addprefix data-,$(SETS)): data-%:
	@$(INSTALL) base
	@$(PY) -m datasets.$* $(if $(DATA),--root "$(DATA)")

verify-data: ## check every data file that is present
	@$(INSTALL) base
	@$(PY) -m datasets --verify $(if $(DATA),--root "$(DATA)")

bench: EXTRAS := tf torch
bench: ## speed and memory against the straightforward formulation, as ratios
	$(ONE_FRAMEWORK)
	@$(INSTALL) tf torch report dev
	@$(PY) -m benchmarks

# TensorFlow with CUDA lies in .venv-tf; what is not installed is named and left out
gpu-check: ## check and time every paper on this GPU; DEVICE=cpu ARGS=--rehearse: without one
	@$(INSTALL) base
	@$(PY) -m benchmarks.gpu_check --device "$(DEVICE)" $(if $(wildcard .venv-tf/bin/python),--tf-python .venv-tf/bin/python) $(ARGS)

soak: ## kill smoke pipelines, stop them, fill their disk: no number may change (PAPER, ARGS)
	@$(INSTALL) tf torch cluster
	@$(PY) -m tests.soak --papers "$(PAPER)" $(ARGS)

fuzz: ## 100,000 damaged inputs through every parser (ARGS="--inputs 5000 --targets cifar")
	@$(INSTALL) tf torch report cluster dev
	@$(PY) -m tests.fuzz $(ARGS)

sweep: ## every configuration and seed as a Ray task, here or on RAY_ADDRESS (PAPER, TASK="--retries 5")
	$(ONE_FRAMEWORK)
	@$(INSTALL) $(EXTRAS) cluster
	@$(PY) -m reproduction.launch.sweep --papers "$(PAPER)" $(REQUEST) $(TASK)

test: ## the whole test suite: no network, no GPU
	@$(INSTALL) tf torch report cluster dev
	@$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: ## ruff and mypy
	@$(INSTALL) tf torch report cluster dev
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

clean: ## remove caches; never touches runs/ or data/
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist ./*.egg-info

clean-runs: ## remove runs/ (all checkpoints and records)
	@rm -rf runs

clean-data: ## remove data/ (all data sets)
	@rm -rf data
