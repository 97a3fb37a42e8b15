# Every target does its own set-up, on a fresh Debian 12 too; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help build demo test test-vm test-clean-debian check bench bench-vm fuzz sim sweep crash models rough
.PHONY: sanitize rigs soak mutants wheel install uninstall deb lock clean
.PHONY: $(addprefix system-,build check test fuzz rigs demo bench install deb)

# Debian's own Python, 3.11 or newer: what a version manager puts first on the PATH may be any other.
PYTHON ?= /usr/bin/python3
PREFIX ?= /opt/overlaybd
BIN := .venv/bin
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
# Property tests try the same cases each time; another number tries others.
export PROPTEST_RNG_SEED ?= 1
# Rigs: how often, each time by other seeds; 1 is what `make test` does.
ROUNDS ?= 3
SEED ?= 1
MINUTES ?= 10
# One seed, one simulated world.
SEEDS ?= 1-1000

cargo = PATH="$$(scripts/rust-path)" cargo
core_sources := $(shell find core/overlaybd/src core/python -type f) $(wildcard core/Cargo.* core/*/Cargo.toml)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: .venv/.core ## set up all that is needed: system packages, .venv with every command, the core

demo: build | system-demo ## an image from packages to a registry to a lazily read, mounted, changed device
	$(BIN)/obd demo

test: build | system-test system-fuzz ## every test: the core's, fuzz targets and simulated worlds for a short while, Python's
	$(cargo) test --manifest-path core/Cargo.toml --locked --package overlaybd
	PATH="$$(scripts/rust-path)" core/fuzz/run.sh
	PATH="$$(scripts/rust-path)" core/sim/run.sh 1-1000
	PATH="$$(scripts/rust-path)" core/sim/models.sh quick
	$(beside_guests)

# A guest has one processor: the tests in guests go on beside all others, and are told of after them.
guests_log = .venv/tests-vm.log
beside_guests = $(BIN)/python -m pytest tests/vm >$(guests_log) 2>&1 & \
	others=0 guests=0; $(BIN)/python -m pytest --ignore tests/vm || others=$$?; \
	wait $$! || guests=$$?; cat $(guests_log); exit $$((others | guests))

test-vm: build | system-test ## the tests for a real kernel, all of them in User Mode Linux and in QEMU
	OVERLAYBD_GUESTS=uml,qemu $(BIN)/python -m pytest tests/vm

test-clean-debian: build | system-test system-install system-deb ## README's lines on a fresh Debian 12
	$(BIN)/python -m tests.vm.clean_debian "$$(scripts/deb/build $(BIN)/python dist)"

check: build | system-check ## format, lint, types, style and floors
	$(cargo) fmt --manifest-path core/Cargo.toml --all --check
	$(cargo) fmt --manifest-path core/mutants/Cargo.toml --check
	$(cargo) clippy --manifest-path core/Cargo.toml --locked --workspace --all-targets --quiet -- -D warnings
	PATH="$$(scripts/rust-path)" core/sim/run.sh --check
	$(BIN)/ruff format --quiet --check .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/python -m pytest -q tests/style

bench: build | system-bench ## measure against peers and bars; ONLY=name for one
	PATH="$$(scripts/rust-path)" $(BIN)/python -m bench.run $(ONLY)

bench-vm: build | system-test system-bench ## measure in a real kernel, likewise
	$(BIN)/python -m bench.vm.run $(ONLY)

rigs: build .venv/rigs/bin/fsx | system-test system-rigs ## devices in use while all around them fails; ROUNDS=count, SEED=first
	RIGS_ROUNDS=$(ROUNDS) RIGS_SEED=$(SEED) $(BIN)/python -m pytest tests/rigs tests/vm/guest/test_rigs.py

rough: build | system-test ## containers under containerd while snapshotter, containerd and device servers are killed; ROUNDS=, SEED=
	ROUGH_ROUNDS=$(ROUNDS) ROUGH_SEED=$(SEED) $(BIN)/python -m pytest -s tests/e2e/test_rough.py

soak: build | system-test ## 16 devices in use, kills and outages for MINUTES=count: what they hold stays flat
	$(BIN)/python -m tests.rigs.soak --minutes $(MINUTES)
	$(BIN)/python -m tests.vm.shell uml python -m tests.rigs.soak_tcmu --minutes $(MINUTES)

fuzz: | system-build system-fuzz ## fuzz the parsers; TARGET=name and RUNS=count if wanted
	PATH="$$(scripts/rust-path)" core/fuzz/run.sh "$(TARGET)" $(RUNS)

models: | system-build ## explore the schedules of models of what runs at the same time; MODEL=name for one
	PATH="$$(scripts/rust-path)" core/sim/models.sh $(or $(MODEL),deep)

sanitize: | system-build ## the core's tests under sanitisers, with a nightly compiler; ONLY=address, thread or miri
	core/sanitize/run.sh $(ONLY)

sim: | system-build ## run the core in simulated worlds where all goes wrong; SEEDS=FROM-TO, or one with its trace
	PATH="$$(scripts/rust-path)" core/sim/run.sh $(SEEDS)

mutants: build | system-build system-test ## try the tests on mutants of formats and cache; MODULE=name and SHARD=1/4 if wanted
	PATH="$$(scripts/rust-path)" $(BIN)/python -m tests.mutation --module "$(MODULE)" --shard "$(SHARD)"

sweep: build | system-test ## let each call of scripts to disk and network fail in each way; SHARD=1/4, DONE=file to go on
	$(call both,sweep)

crash: build | system-test ## open what a loss of power at each moment may have left of a script's files; likewise
	$(call both,crash)
	$(BIN)/python -m tests.sweep.ext4 --every 5

# Two processors share the work.
part = $(BIN)/python -m tests.sweep.$(1) $(SHARD:%=--shard %) $(DONE:%=--done %) --shard
both = $(call part,$(1)) 1/2 & one=0 other=0; $(call part,$(1)) 2/2 || other=$$?; wait $$! || one=$$?; exit $$((one | other))

wheel: .venv/.deps ## a wheel in dist/, tried in an environment of its own
	rm -rf dist
	PATH="$$(scripts/rust-path)" $(BIN)/maturin build --release --locked --out dist
	scripts/try-wheel dist/*.whl

install: build | system-install ## into PREFIX, its configuration and units into /etc and /lib; DESTDIR= for another /
	$(BIN)/python scripts/install.py --root "$(DESTDIR)/" --prefix "$(PREFIX)"
	[[ -n "$(DESTDIR)" || ! -d /run/systemd/system ]] || systemctl daemon-reload

uninstall: | .venv/.deps ## what was changed since, and caches, stay
	$(BIN)/python scripts/install.py --root "$(DESTDIR)/" --prefix "$(PREFIX)" --remove
	[[ -n "$(DESTDIR)" || ! -d /run/systemd/system ]] || systemctl daemon-reload

deb: build | system-install system-deb ## a Debian package in dist/ of what `make install` installs
	scripts/deb/build $(BIN)/python dist

lock: .venv/.deps ## pin anew what pyproject.toml and core/Cargo.toml ask for
	$(BIN)/pip install --quiet --target .venv/uv uv
	for set in "" -dev; do \
	    .venv/uv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
	        --custom-compile-command "make lock" $${set:+--group dev} pyproject.toml -o requirements$$set.lock; \
	done
	$(cargo) update --manifest-path core/Cargo.toml

clean: ## remove all that the other targets made
	rm -rf .venv core/target core/fuzz/target core/mutants/target core/sim/target bench/out dist .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -r {} +

system-build system-check system-test system-fuzz system-rigs system-demo system-bench system-install system-deb: system-%:
	@scripts/system-packages $*

# The stamps: each is newer than what it was made of, or it is made again.
.venv/.deps: requirements-dev.lock | system-build
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "no Python 3.11 or newer: try make PYTHON=...")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	$(BIN)/pip uninstall --quiet --yes setuptools  # nothing uses it, and it slows the start of every command
	touch $@

.venv/rigs/bin/fsx: .venv/.deps
	$(cargo) install --quiet --locked --version 0.3.2 --root .venv/rigs --target-dir .venv/rigs/target fsx
	rm -rf .venv/rigs/target

.venv/.core: .venv/.deps $(core_sources) pyproject.toml obdcore.pyi
	PATH="$$(scripts/rust-path)" VIRTUAL_ENV=$(CURDIR)/.venv PIP_QUIET=1 \
	    $(BIN)/maturin develop --quiet --release --locked
	touch $@
