# `make` lists the targets. Each one makes .venv first when it has to, so any of them may be the first command in a clone.
#   PYTHON=/path/to/python3.11   the interpreter to make .venv with
#   ARGS="..."                   passed on: `make test ARGS="-k lock"`, `make sweep ARGS="--seeds 5"`
# RAYBENCH_DATA (real images) and RAYBENCH_CACHE reach every command as they stand in the environment.

.DEFAULT_GOAL := help
SHELL := /bin/sh
.SHELLFLAGS := -euc
MAKEFLAGS += --no-print-directory

PYTHON ?=
ARGS ?=
RUN := .venv/bin/python -m
STAMP := .venv/.installed

# The stamp holds the folder it was made in. An installation that was interrupted, was moved with its clone, or has lost
# its Python does not match, and is made again from nothing.
ifneq ($(shell test -x .venv/bin/python && cat $(STAMP) 2>&1),$(CURDIR))
FRESH := yes
.PHONY: $(STAMP)
endif

.PHONY: help install sweep test test-all test-cluster scenarios lint format bench bench-gpu docs lock clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-14s %s\n' "$$name" "$$text"; done

# --yes, since what a busy machine is told to take for it may be above an hour, which is asked about first.
sweep: $(STAMP)  ## the first sweep, on embedded data, and its comparison table
	@$(RUN) raybench.sweep deit_reverse --preset quick --yes $(ARGS)

# Two processes: more do not pay for their import of torch, and Ray's tests start processes of their own. A file's tests
# stay together, because its fixtures (a Ray node, a trained teacher) are made once a file. One thread each: torch's
# threads of two processes spin against each other on two cores (measured: 41 s of tests instead of 17 s). Files begin in order of
# name, so that those of whole sweeps, which take minutes, are not left for one process at the end.
PYTEST := OMP_NUM_THREADS=1 $(RUN) pytest
IN_TWO := -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP)  ## the fast tests
	@$(PYTEST) $(IN_TWO) $(ARGS)

test-all: $(STAMP)  ## the slow tests too; those for a GPU skip themselves where there is none
	@$(PYTEST) $(IN_TWO) -m "not cluster" $(ARGS)

test-cluster: $(STAMP)  ## the tests on several nodes, and as root on three hosts of a lab (docs/cluster.md)
	@tests/cluster/lab/programs.sh
	@$(PYTEST) -m cluster $(ARGS)

scenarios: $(STAMP)  ## the thirty faults of docs/reliability.md and its table (half an hour)
	@OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scenarios.py $(ARGS)

lint: $(STAMP)  ## ruff, mypy, and the direction of the imports
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@.venv/bin/lint-imports

format: $(STAMP)  ## what ruff can mend, mended
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

bench: $(STAMP)  ## every benchmark that needs no GPU, but the long ones (chaos, scenarios, view_accuracy, results_scale, driver_cost, scaling, tune_overhead), into docs/performance.md
	@$(RUN) benchmarks.peers.performance_page $(filter-out benchmarks/gpu_% benchmarks/chaos.py benchmarks/scenarios.py benchmarks/view_accuracy.py benchmarks/results_scale.py benchmarks/driver_cost.py benchmarks/scaling.py benchmarks/tune_overhead.py,$(wildcard benchmarks/*.py))

# On a rented machine with torch of its own nothing is installed: PYTHON=python3 make bench-gpu, where there is no .venv.
bench-gpu:  ## the benchmarks that need a GPU (benchmarks/gpu_*.py), by .venv or, without one, by PYTHON
	@$(call each,$(wildcard benchmarks/gpu_*.py))

# Runs each file, goes on after a failure, and fails at the end.
each = $(if $(1),failed=; for file in $(1); do echo "== $$file"; PYTHONPATH=. $(or $(wildcard .venv/bin/python),$(PYTHON),python3) "$$file" $(ARGS) || failed="$$failed $$file"; done; \
	test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; },echo "no such file in benchmarks/")

docs: $(STAMP)  ## the pages as a site, in site/; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict --quiet
	@echo "site/index.html"

install: $(STAMP)  ## .venv with everything in requirements.lock, and raybench itself, editable

# A new lock is brought into a whole .venv in place; the stamp goes first, so that an interruption is noticed.
$(STAMP): requirements.lock pyproject.toml
	@if [ "$(FRESH)" ]; then $(find_python); \
		echo "Making .venv with $$($$found --version): all of requirements.lock, about 6 GB, some minutes the first time."; \
		if [ -L .venv ]; then rm .venv; fi; "$$found" -m venv --clear .venv; \
	else echo "requirements.lock or pyproject.toml is newer than .venv: bringing it up to date."; rm -f $@; fi
	@if [ -z "$${PIP_CERT:-}" ] && [ -f $(CERTIFICATES) ]; then export PIP_CERT=$(CERTIFICATES); fi; \
		$(RUN) pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps "$$(grep '^uv==' requirements.lock)"
	@test -t 2 || quiet=--quiet; $(UV) sync --system-certs $${quiet:-} requirements.lock
	@$(UV) install --quiet --no-deps --no-index --no-build-isolation --editable .
	@printf '%s\n' "$(CURDIR)" > $@

# pip brings certificates of its own, which lack that of a proxy; uv is told to use the system's.
CERTIFICATES := /etc/ssl/certs/ca-certificates.crt

UV = VIRTUAL_ENV="$(CURDIR)/.venv" .venv/bin/uv pip
# Downloads are kept in raybench's own cache folder, so that nothing is written elsewhere; a cache of yours comes first.
export UV_CACHE_DIR ?= $(or $(RAYBENCH_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/raybench)/uv

# compressai and numpy 1.26 of the lock have no wheels beyond Python 3.12.
define find_python
tried="$(or $(PYTHON),python3.11 python3.12 python3)"; found=; bare=; \
for python in $$tried; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null || continue; \
	if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then found=$$python; break; else bare=$${bare:-$$python}; fi; \
done; \
if [ ! "$$found" ] && [ "$$bare" ]; then \
	echo "error: $$bare lacks venv or ensurepip: install them (Debian, Ubuntu: $$bare-venv), or name another Python: make PYTHON=/path/to/python3.11" >&2; exit 1; \
elif [ ! "$$found" ]; then \
	echo "error: Python 3.11 or 3.12 is needed and none was found (tried $$tried): install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; \
fi
endef

# Not after $(STAMP): bringing .venv up to date with the old lock would remove what is to enter the new one.
lock:  ## requirements.lock rewritten from what .venv holds (CONTRIBUTING.md)
	@{ sed -n '/^#/p' requirements.lock; $(UV) freeze --exclude-editable | grep -v '^pip=='; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean:  ## removes .venv and all else that can be made again; results/ stays
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist site
	@find . -name .git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
