# One word for each task, for people and for continuous integration. `make help` lists them.
# Everything is set up inside this folder: the virtual environment in .venv, the builds in target.

# The first Python that really runs (a name on the PATH may be an empty shim) and is new enough.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
    $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

BIN := .venv/bin
# Tests side by side: they wait as much as they compute, so that there are two more than there are processors.
JOBS ?= $(shell expr $$(nproc) + 2)
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
RUST_SOURCES := $(shell find crates -name '*.rs' -o -name Cargo.toml) $(wildcard Cargo.toml Cargo.lock)

# rustup puts its programs here, and a shell that was open before does not know them yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
# Tests are rewritten and compiled once, and not in each process of each run.
unexport PYTHONDONTWRITEBYTECODE
# The linter compiles the extension against the same Python as the build does.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
# The build is installed here, whichever environment the shell is in that asks for it.
export VIRTUAL_ENV := $(CURDIR)/.venv
unexport CONDA_PREFIX

.DEFAULT_GOAL := help
.PHONY: help install demo tests-built test test-all loom shuttle failpoints fuzz prove suites weakened lint fmt bench bench-rivals bench-cache bench-hits bench-overhead bench-payload bench-scale bench-restarts bench-disk bench-python soak stubs manual lock clean

help: ## List the tasks.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

install: .venv/built ## Make the virtual environment and build ringtable into it.

demo: install ## Build, then show it: eight processes share a cache, a rate limiter and arrays, and count words.
	@$(BIN)/ringtable demo

tests-built: .cargo-found
	cargo test --package ringtable --lib --no-run

test: install ## Build, then run the Rust tests and the Python tests, all but the slow ones.
	cargo test --package ringtable --lib
	$(PYTEST) -m 'not slow'

test-all: test loom failpoints ## The same with the slow tests, the models, and deaths at each step.
	$(PYTEST) -m slow

loom: .cargo-found ## Check the models of rings, doorbell and table: three minutes.
	scripts/loom.sh

shuttle: .cargo-found ## Check the models that are too large for loom: some interleavings, at random.
	scripts/shuttle.sh

failpoints: .venv/installed .cargo-found ## Kill and stop processes at each step of the protocols: a build of its own, three minutes.
	scripts/failpoints.sh --numprocesses $(JOBS) --dist worksteal

fuzz: .cargo-found ## Search for inputs that the engine does not survive: 20 seconds a target.
	scripts/fuzz.sh

prove: install ## All models, fuzzers, kills and hostile clients, each bounded: 15 minutes.
	$(BIN)/python -m proof

suites: install ## Tests of other projects, unchanged: Django's, cachelib's and more. SUITES="django --quick" runs some.
	$(BIN)/python -m suites $(SUITES)

weakened: install ## Show that the detectors detect: take orderings, checks and steps away, one at a time. An hour.
	scripts/weakened.sh

lint: .venv/installed .cargo-found ## Check formatting, lints and types; change nothing.
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo metadata --manifest-path fuzz/Cargo.toml --locked --format-version 1 >/dev/null
	cargo clippy --workspace --all-targets --features profile -- --deny warnings
	cargo clippy --workspace --all-targets --features failpoints -- --deny warnings
	cargo clippy --package ringtable-python --no-default-features -- --deny warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; fi

fmt: .venv/installed .cargo-found ## Format the code, and fix what the linter can fix.
	cargo fmt --all
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: install ## Measure the classic topology and its successors: two minutes, a page in report.html.
	@$(BIN)/ringtable bench --quick --html report.html

bench-rivals: install .venv/bench ## Measure against LMDB, Valkey, a Manager's dict and a plain dict.
	$(BIN)/python -m benches.compare

bench-cache: bench-hits bench-overhead bench-payload ## Measure hit ratios, what entries cost, and large values.

bench-hits: install .venv/bench ## Hit ratios beside reference caches and Valkey.
	$(BIN)/python -m benches.hit_ratio

bench-overhead: install .venv/bench ## Bytes that an entry costs beyond its key and value.
	$(BIN)/python -m benches.overhead

bench-python: install .venv/bench ## What objects, locks, limiters, asyncio, caches of frameworks and the import cost, beside others.
	$(BIN)/python -m benches.python
	$(BIN)/python -m benches.aio
	$(BIN)/python -m benches.frameworks

bench-scale: install .venv/bench ## What operations cost by the size of the table, up to 4 GiB: some minutes.
	$(BIN)/python -m benches.scale

bench-restarts: install .venv/bench ## What clients notice of a server that is killed or upgraded, with 10 million entries.
	$(BIN)/python -m benches.restarts

bench-disk: install .venv/bench ## Snapshots and logs, beside Valkey and LMDB, on the disk of $$TMPDIR or /var/tmp: ten minutes.
	$(BIN)/python -m benches.disk

bench-payload: install .venv/bench ## Large values, beside plain copies.
	$(BIN)/python -m benches.payload

soak: install ## Let all loads work on one server for MINUTES=60, and judge: a page in soak.html.
	$(BIN)/python -m proof.soak --minutes $(or $(MINUTES),60) --html soak.html

stubs: install ## Write the docstrings of the built extension into its stub, where editors look for them.
	$(BIN)/python scripts/stubs.py

manual: .cargo-found ## Write the table of commands into docs/commands.md.
	RINGTABLE_WRITE_MANUAL=1 cargo test --quiet --package ringtable --lib command::manual

lock: .venv/installed ## Renew the pinned versions in requirements-*.lock.
	$(BIN)/python -m venv --clear .venv/lock
	@for group in dev bench; do \
	    $(BIN)/python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb')); print(*(p['project']['dependencies'] \
	        if '$$group' == 'dev' else []), *p['dependency-groups']['$$group'], sep='\n')" > .venv/lock/$$group.txt; \
	    .venv/lock/bin/python -m pip --disable-pip-version-check --quiet install --upgrade --requirement .venv/lock/$$group.txt; \
	    { echo "# Made by 'make lock' from pyproject.toml."; \
	        .venv/lock/bin/python -m pip --disable-pip-version-check freeze; } > requirements-$$group.lock; \
	done
	@rm -rf .venv/lock

clean: ## Remove everything that the other tasks made.
	rm -rf .venv .suites target target-* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find python tests benches proof suites -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/ringtable/_ringtable.*.so

# The stamps: each is newer than what it was made from, so a second run has nothing to do.

.venv/installed: requirements-dev.lock
	@test -n "$(PYTHON)" || { echo "ringtable needs Python 3.11 or newer with its venv module: install it, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the tools of requirements-dev.lock into .venv: a minute"
	@$(PIP) install --requirement requirements-dev.lock
	@touch $@

# The code of a wheel, and the line tables that `ringtable profile` reads.
.venv/built: .venv/installed pyproject.toml $(RUST_SOURCES) | .cargo-found
	@command -v cc >/dev/null || { echo "ringtable needs a C compiler to link with: install gcc or clang (Debian: apt install gcc)" >&2; exit 1; }
	$(BIN)/maturin develop --profile profiling --features profile
	@touch $@

.venv/bench: .venv/installed requirements-bench.lock
	$(PIP) install --requirement requirements-bench.lock
	@touch $@

.PHONY: .cargo-found
.cargo-found:
	@command -v cargo >/dev/null || { \
	    echo "ringtable needs Rust 1.88 or newer, and there is no cargo here. Either of these gets it:" >&2; \
	    echo "  - follow https://rustup.rs, then run this again;" >&2; \
	    echo "  - or let the build fetch a Rust of its own for a plain installation: $(or $(PYTHON),python3) -m pip install ." >&2; exit 1; }
