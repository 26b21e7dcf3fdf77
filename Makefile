# soliton: `make demo` shows the main job, `make test` proves it. Both install what is missing and say so.

PYTHON ?= $(shell for p in /usr/bin/python3 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PREFIX ?= /usr/local
VENV := .venv
BIN := $(VENV)/bin
RUST := $(shell find core -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock

.PHONY: all demo test unit lint bench fuzz install clean format

all: $(BIN)/soliton

$(VENV)/.ready: pyproject.toml scripts/prepare
	scripts/prepare build
	$(or $(PYTHON),/usr/bin/python3) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

$(BIN)/soliton: $(VENV)/.ready $(RUST)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --quiet
	touch $@

demo: all
	scripts/prepare demo
	scripts/demo

test:
	scripts/prepare test
	$(MAKE) all
	$(MAKE) lint
	scripts/test

unit: all
	cargo test --quiet
	$(BIN)/python -m pytest tests/unit

lint: $(VENV)/.ready
	$(BIN)/ruff format --check src tests bench scripts
	$(BIN)/ruff check src tests bench scripts
	$(BIN)/mypy
	cargo fmt --all --check
	cargo clippy --quiet --all-targets -- -D warnings

format: $(VENV)/.ready
	$(BIN)/ruff format src tests bench scripts
	$(BIN)/ruff check --fix src tests bench scripts
	cargo fmt --all

bench: all
	scripts/prepare bench
	$(BIN)/python -m bench

# A bounded run of every fuzz target; SECONDS=3600 makes it a long one.
fuzz: all
	scripts/fuzz $(or $(SECONDS),60)

# PREFIX/lib/soliton is a virtual environment of its own, PREFIX/bin/soliton a link to the program in it.
# DROP_IN=yes adds the names `apptainer`, `singularity` and `run-singularity`. Manual pages and completion go to PREFIX/share.
install:
	scripts/prepare build
	$(MAKE) $(VENV)/.ready
	$(or $(PYTHON),/usr/bin/python3) -m venv $(DESTDIR)$(PREFIX)/lib/soliton
	$(BIN)/maturin build --release --quiet --out dist
	$(DESTDIR)$(PREFIX)/lib/soliton/bin/python -m pip install --quiet --force-reinstall dist/soliton-*.whl
	install -d $(DESTDIR)$(PREFIX)/bin
	for name in soliton $(if $(filter yes,$(DROP_IN)),apptainer singularity run-singularity); do \
	    ln -sfn ../lib/soliton/bin/soliton $(DESTDIR)$(PREFIX)/bin/$$name; done
	$(DESTDIR)$(PREFIX)/lib/soliton/bin/soliton help --man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions \
	    $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	for name in soliton $(if $(filter yes,$(DROP_IN)),apptainer singularity); do \
	    run=$(DESTDIR)$(PREFIX)/bin/$$name; share=$(DESTDIR)$(PREFIX)/share; \
	    $$run completion bash > $$share/bash-completion/completions/$$name && \
	    $$run completion zsh > $$share/zsh/site-functions/_$$name && \
	    $$run completion fish > $$share/fish/vendor_completions.d/$$name.fish || exit 1; \
	done

clean:
	rm -rf $(VENV) target dist bench/results .mypy_cache .ruff_cache .pytest_cache .hypothesis fuzz/target
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
