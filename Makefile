# Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOMAIN ?= traffic
RECIPE ?= quick
TRIALS ?= 100
KIND ?= traffic
SCENARIOS ?= 40
ENGINE ?= sumo
MODEL ?= champion
TOWN ?= water
# Idle OpenMP threads that spin take whole cores: the largest slow-down on small machines.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup train simulate tune report cards promote rollback monitor retrain schedule serve twin rehearsal reactor mlflow-ui test check images up build-reactor proto bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## create the virtual environment and install everything, pinned

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): some minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25"
	@# torch first: asked for by another package it would bring its newest build, with gigabytes of CUDA.
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e ".[train,sim,monitor,torchserve,postgres,bench,dev]"
	@touch $@

train: $(READY) ## train, judge and register (DOMAIN=traffic RECIPE=quick DATA=folder)
	$(BIN)/towncast train $(DOMAIN) --recipe $(RECIPE) $(if $(DATA),--data $(DATA))

simulate: $(READY) ## roll out simulators into the store and Feast (KIND=traffic|process SCENARIOS=40)
	$(BIN)/towncast simulate $(KIND) --scenarios $(SCENARIOS)

tune: $(READY) ## search for a better recipe (DOMAIN=traffic RECIPE=quick TRIALS=100 DATA=folder); goes on if stopped
	$(BIN)/towncast tune $(DOMAIN) --recipe $(RECIPE) --trials $(TRIALS) $(if $(DATA),--data $(DATA))

report: $(READY) ## write the evaluation report of the champion as HTML (DOMAIN=traffic DATA=folder)
	$(BIN)/towncast report $(DOMAIN) $(if $(DATA),--data $(DATA))

cards: $(READY) ## renew docs/model_cards from the champions (DATA=folder)
	$(BIN)/towncast report all --model-card docs/model_cards $(if $(DATA),--data $(DATA))

promote: $(READY) ## make a version champion, if the gate lets it (DOMAIN=traffic VERSION=3 APPROVED_BY=name)
	$(BIN)/towncast promote $(DOMAIN) $(if $(VERSION),--version $(VERSION)) $(if $(APPROVED_BY),--approved-by "$(APPROVED_BY)")

rollback: $(READY) ## make the champion before the present one champion again (DOMAIN=traffic)
	$(BIN)/towncast rollback $(DOMAIN)

monitor: $(READY) ## look at the champions: errors, coverage, drift, site by site (DOMAIN=traffic, empty for all)
	$(BIN)/towncast monitor $(DOMAIN) $(if $(PAGE),--page)

retrain: $(READY) ## retrain, judge and release what passes (DOMAIN=traffic REASON="..." DATA=folder)
	$(BIN)/towncast retrain $(DOMAIN) --now $(if $(REASON),--reason "$(REASON)") $(if $(DATA),--data $(DATA))

schedule: $(READY) ## monitor and retrain by themselves, with Prefect's pages on http://127.0.0.1:4200
	$(BIN)/towncast schedule --prefect

serve: $(READY) ## answer POST /predict/traffic, /pollution, /water and /demand on http://127.0.0.1:8000
	$(BIN)/towncast serve

twin: $(READY) ## run the live traffic twin, a minute a second, and show it on http://127.0.0.1:8765 (ENGINE=sumo|mock MODEL=champion)
	$(BIN)/towncast twin --engine $(ENGINE) --model $(MODEL) --speed 60

rehearsal: $(READY) ## replay half a year through the API with harm on the way (TOWN=water|traffic DATA=folder)
	$(BIN)/towncast rehearsal --domain $(TOWN) $(if $(DATA),--data $(DATA))

reactor: $(READY) ## follow a reactor over NATS JetStream, on nats://127.0.0.1:4222
	$(BIN)/towncast reactor

mlflow-ui: $(READY) ## open MLflow on http://127.0.0.1:5000
	$(BIN)/towncast mlflow-ui

test: $(READY) services ## style, types, layers and all tests
	$(MAKE) check
	@# A file's tests stay together: they share what is dear to set up. In their own order, the longest begins early.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

images: ## build the images (needs Docker)
	docker build -f deploy/Dockerfile --target api -t towncast .
	docker build -f deploy/Dockerfile --target torchserve -t towncast-torchserve .
	docker build -f deploy/Dockerfile --target jobs -t towncast-jobs .
	docker build -f deploy/gpu.Dockerfile -t towncast-gpu .

up: ## start the whole town with Docker Compose (fill in deploy/.env first)
	@test -f deploy/.env || { echo "Copy deploy/.env.example to deploy/.env and fill it in"; exit 1; }
	@touch deploy/secrets/metrics_key
	docker compose -f deploy/compose.yaml up --build --detach --wait

build-reactor: ## build the image of the reactor's twin (needs Docker)
	docker build -f deploy/reactor.Dockerfile -t towncast-reactor .

proto: $(READY) ## generate the Protobuf code again
	$(BIN)/python -m serving.messages.generate

.PHONY: services
services: # what the tests start for themselves: Java for TorchServe, a browser, brokers
	@missing=""; \
	command -v java >/dev/null || missing="$$missing openjdk-17-jre-headless"; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v nats-server >/dev/null || missing="$$missing nats-server"; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	command -v wrk >/dev/null || missing="$$missing wrk"; \
	command -v mosquitto >/dev/null || missing="$$missing mosquitto"; \
	if [ -n "$$missing" ]; then echo "The tests need:$$missing. Installing"; \
	  if [ "$$(id -u)" = 0 ]; then root=""; else root=sudo; fi; \
	  $$root apt-get update -qq && $$root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; fi

bench: $(READY) ## run every benchmark and renew benchmarks/RESULTS.md (DATA=folder)
	$(BIN)/python -m benchmarks $(if $(DATA),--data $(DATA))

clean: ## remove readings, features, models and checkpoints (asks first)
	@printf "Remove var/ and the MLflow store? [y/N] "; read answer; [ "$$answer" = y ] && rm -rf var mlruns/mlflow.db mlruns/artifacts || echo "kept"
