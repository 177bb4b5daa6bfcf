# Needs python3 (3.11 or later), make and the package registries; everything else is installed in .venv.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
TOOLS := .cache/tools
# Of vulnerabilities that do not concern the project: --ignore-vuln ID for each, with why and until when said here.
AUDIT_IGNORED :=

.PHONY: help install tools demo quality recall ablation bench bench-live bench-train profile faults soak fuzz gpu-check docs reference monitoring dist last-release audit test lint types imports unit lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "framewatch needs Python 3.11 or later, this is " + sys.version.split()[0] + "; name another with make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	awk '/^[a-z]/ {wanted = /^uv==/} wanted' requirements.lock > .venv/uv.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement .venv/uv.lock
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip sync --quiet --require-hashes requirements.lock
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

install: $(STAMP)  ## create .venv from the hash-pinned lock

tools: $(TOOLS)/.installed  ## install what checks charts, compose files and workflows (needs Go)

$(TOOLS)/.installed: deploy/tools.txt
	@mkdir -p $(TOOLS)
	@while read -r module version name; do \
	    GOBIN=$(CURDIR)/$(TOOLS) go install $$module@$$version && \
	    { test "$$(basename $$module)" = $$name || mv $(TOOLS)/$$(basename $$module) $(TOOLS)/$$name; } || exit 1; \
	done < deploy/tools.txt
	@touch $@

demo: $(STAMP)  ## train on the room footage, export, run a worker against a real Kafka, show the alerts
	@$(BIN)/python -m deploy.demo $(ARGS)

quality: $(STAMP)  ## fit and measure on public labelled footage (FRAMEWATCH_DATA), write docs/benchmarks/quality.md
	@$(BIN)/python -m deploy.quality $(ARGS)

recall: $(STAMP)  ## fit on footage without labels, count what is found of what is put into it, write docs/benchmarks/recall.md
	@$(BIN)/python -m deploy.recall $(ARGS)

ablation: $(STAMP)  ## fit variants of the model, compare them without labels, write docs/benchmarks/ablation.md
	@$(BIN)/python -m deploy.ablation $(ARGS)

bench: $(STAMP)  ## measure the worker on a real Kafka, print one JSON object, write docs/benchmarks/worker.md
	@$(BIN)/python -m deploy.bench $(ARGS)

bench-live: $(STAMP)  ## measure a worker's start, memory and delay on a real Kafka, write docs/benchmarks/live.md
	@$(BIN)/python -m deploy.bench_live $(ARGS)

bench-train: $(STAMP)  ## measure the trainer's steps beside those of a bare loop, write docs/benchmarks/train.md
	@$(BIN)/python -m deploy.bench_train $(ARGS)

profile: $(STAMP)  ## look where a worker's time goes, write docs/benchmarks/profile.md
	@$(BIN)/python -m deploy.profile_worker $(ARGS)

faults: $(STAMP)  ## do to real workers on a real Kafka what kills such workers, write docs/benchmarks/faults.md
	@$(BIN)/python -m deploy.faults $(ARGS)

soak: $(STAMP)  ## run a worker for an hour, report memory, descriptors and lag, write docs/benchmarks/soak.md
	@$(BIN)/python -m deploy.soak $(ARGS)

fuzz: $(STAMP)  ## feed what parses input with five hundred times the examples of the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --hypothesis-profile long --timeout 7200 --numprocesses 2 tests/fuzz $(ARGS)

gpu-check: $(STAMP)  ## measure parity, throughput and training on this machine's GPU, write docs/benchmarks/gpu.md
	@$(BIN)/python -m deploy.gpu_check $(ARGS)

docs: $(STAMP)  ## build the documentation's site in site/, links that lead nowhere being errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --config-file deploy/site/mkdocs.yml

reference: $(STAMP)  ## write docs/reference from the code
	@$(BIN)/python -m deploy.reference

monitoring: $(STAMP)  ## write the Grafana dashboard from panels.yaml, and the chart's copies of it and of the alert rules
	@$(BIN)/python -m deploy.dashboard
	@cp deploy/prometheus/alerts.yaml deploy/grafana/dashboards/framewatch.json deploy/helm/framewatch/files/

dist: $(STAMP)  ## build wheel and sdist into dist/, the same bytes for the same commit
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m hatchling build --directory dist

last-release: dist  ## keep this version's wheel as the one that the tests of an upgrade start from
	rm -f tests/deploy/releases/*.whl
	cp dist/*.whl tests/deploy/releases/
	cd tests/deploy/releases && sha256sum *.whl > SHA256SUMS

audit: $(STAMP)  ## look for known vulnerabilities in what the lock pins; one that cannot be looked up is an error
	$(BIN)/pip-audit --strict --progress-spinner off --no-deps --disable-pip --requirement requirements.lock $(AUDIT_IGNORED)

test: lint types imports unit  ## linters, types, import contracts, unit and integration tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

unit: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25 --durations-min 20

lock: $(STAMP)  ## resolve pyproject.toml into requirements.lock again
	$(BIN)/uv pip compile --quiet --universal --all-extras --generate-hashes --no-annotate --no-header \
	    pyproject.toml --output-file requirements.lock
	@# An image holds what the project's lock says, for its own extras; `build` is what builds them.
	while read -r image extras; do \
	    $(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
	        --no-annotate --no-header --constraints requirements.lock $$extras pyproject.toml \
	        --output-file deploy/images/$$image.lock || exit 1; \
	done < deploy/images/images.txt
	printf '%s\n' cyclonedx-bom hatchling uv | $(BIN)/uv pip compile --quiet --python-version 3.11 \
	    --python-platform x86_64-manylinux_2_28 --generate-hashes --no-annotate --no-header \
	    --constraints requirements.lock - --output-file deploy/images/build.lock

clean:  ## remove what the targets made
	rm -rf .venv .cache demo-out quality-out recall-out ablation-out bench-out faults-out dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
