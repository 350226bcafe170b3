# `make demo` runs an example, `make test` runs the tests, `make help` lists all commands.
# Each creates what it requires; only Python 3.11 or later must be installed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMPILED := .venv-compiled
# More than the number of cores, because the tests spend half of their time waiting.
JOBS ?= 8
PIP := $(BIN)/pip --disable-pip-version-check install --quiet

# The tests start thousands of interpreters, which should not compile the sources again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: instructions instructions-compare instructions-check first-message valgrind differential explore demo test matrix matrix-sid docs release release-check coverage lint peers compiled test-compiled bench bench-peers bench-report bench-compare fuzz mutate soak mutants interop clean help simulate chaos attack stress agree study through-tap faults tap-bench cluster

help:              ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

demo: $(VENV)/installed  ## an example: a broker, two subscriptions, messages of every QoS
	@$(BIN)/pubsub demo

test: lint peers   ## every test, after ruff and mypy strict, in JOBS=8 processes; writes docs/conformance.md
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --write-docs conformance

# Left out, because they do not depend on the Python: peers in other processes, planted faults, thousands of seeds.
MATRIX := --ignore=tests/interop_matrix --ignore=tests/simulation --ignore=tests/chaos --ignore=tests/cluster --ignore=tests/exploration \
	--deselect=tests/conformance/test_mutants.py

matrix: peers      ## the tests on every Python found; ONLY="3.11.2 3.14" for some, TESTS=... for other tests
	$(PYTHON) tools/matrix.py $(addprefix --only=,$(ONLY)) $(or $(TESTS),$(MATRIX))

matrix-sid:        ## create a root file system of Debian sid, for Python 3.14 in the matrix; as root
	@sh tools/sid.sh

docs: $(VENV)/installed-docs  ## the site, in site/: strict, every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/python tools/check_site.py site

release-check: $(VENV)/installed-release $(VENV)/installed-docs peers  ## all checks of a release; RELEASE=1: also those that only a release must pass
	$(BIN)/python tools/release_check.py $(if $(RELEASE),--release) $(addprefix --tests=,$(TESTS))

release: $(VENV)/installed-release  ## the sdist and the wheel, in dist/; PROJECT_URL=https://... is the address of the sources
	@test -n "$(PROJECT_URL)" || { echo "set PROJECT_URL to the address at which the sources are published"; exit 2; }
	rm -rf dist
	PROJECT_URL=$(PROJECT_URL) $(BIN)/python -m build

coverage: $(VENV)/installed-test  ## every branch of the codec and the protocol, by their own tests
	$(BIN)/python -m pytest -q tests/codec tests/protocol tests/store --cov=mqttws.codec --cov=mqttws.protocol \
		--cov-branch --cov-report=term-missing --cov-fail-under=100

lint: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy

peers: $(VENV)/installed-test
	@sh tests/peers/install.sh

compiled: $(COMPILED)/installed  ## the same sources compiled by mypyc, in .venv-compiled

test-compiled: $(COMPILED)/installed  ## every test, on the compiled build; TESTS=... for some
	@cd / && $(CURDIR)/$(COMPILED)/bin/python -c 'import mqttws, sys; sys.exit(None if mqttws.compiled else "this is not the compiled build")'
	PYTHONSAFEPATH=1 $(COMPILED)/bin/python -m pytest $(TESTS)

mutants: $(VENV)/installed-test  ## plant a fault for each statement of the standard, which its tests must catch
	$(BIN)/python tests/conformance/mutants.py

interop: $(VENV)/installed-test  ## other clients and brokers with ours; writes docs/interop.md
	@sh tests/peers/install.sh interop
	$(BIN)/python -m pytest tests/interop_matrix --all-peers --write-docs interop

cluster: $(VENV)/installed-test  ## clusters whose nodes are killed in turn, 80 minutes; writes a part of docs/scale.md; ONLY="nats" for some
	@sh tests/peers/install.sh cluster
	$(BIN)/python -m pytest -q --all-peers tests/cluster/test_black_hole.py tests/cluster/test_proxies.py
	$(BIN)/python tests/cluster/cluster.py $(ONLY)

bench: $(VENV)/installed-test  ## the benchmarks of this library
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-disable-gc

fuzz: $(VENV)/installed-test  ## the fuzzer on each of its targets, T seconds each (T=60)
	@$(PIP) -e '.[fuzz]'
	@for target in decoder frames handshake server client topics verify policy; do \
		$(BIN)/python tests/fuzz/fuzz.py $$target $(or $(T),60) || exit 1; done

mutate: $(VENV)/installed  ## N mutated bytes to the decoder (N=100000000)
	$(BIN)/python tests/fuzz/mutate.py decoder $(or $(N),100000000)

faults: $(VENV)/installed-test  ## other clients and ours under 48 faults, 15 minutes; writes docs/faults.md
	@sh tests/peers/install.sh faults
	$(BIN)/python tests/faults/matrix.py

study: $(VENV)/installed-test  ## the diagrams and the guided tour of docs/, from the code
	PYTHONPATH=tests/support $(BIN)/python tests/support/study.py

agree: $(VENV)/installed-test  ## dissect and tshark on N packets, field by field (N=100000)
	@sh tests/peers/install.sh
	PYTHONPATH=tests/support $(BIN)/python tests/support/agreeing.py $(or $(N),100000)

tap-bench: $(VENV)/installed  ## the overhead of a tap
	$(BIN)/python benchmarks/tap_overhead.py

through-tap: $(VENV)/installed-test  ## the drivers' contract and the interoperability matrix through a tap
	PYTHONPATH=tests/support $(BIN)/python -m pytest -p through_tap tests/drivers/test_contract.py tests/interop_matrix

soak: $(VENV)/installed  ## 200 clients, a reset every 2 s, for T seconds (T=3600); writes docs/soak.png
	@$(PIP) -e '.[soak]'
	$(BIN)/python tests/soak/soak.py --seconds $(or $(T),3600) --plot docs/soak.png

bench-peers:       ## this library and others, each in its own environment; RUNS=3 runs of a quarter of an hour
	$(PYTHON) benchmarks/run_peers.py --runs $(or $(RUNS),3) --rounds $(or $(ROUNDS),1) --out benchmarks/results.json

bench-report: $(VENV)/installed-test  ## docs/benchmarks.md and its plots, from the JSON of bench-peers
	@$(PIP) -e '.[bench]'
	$(BIN)/python benchmarks/report.py benchmarks/results.json docs

bench-compare:     ## regressions against the stored results, as ratios to the floor of the same run
	$(PYTHON) benchmarks/run_peers.py --libraries floor,paho,mosquitto,mqttws,mqttws-compiled,mqttws-uvloop \
		--out benchmarks/new.json
	$(PYTHON) benchmarks/compare.py benchmarks/results.json benchmarks/new.json

valgrind:
	@command -v valgrind >/dev/null || apt-get install -y -qq --no-install-recommends valgrind

instructions: $(VENV)/installed valgrind  ## count the instructions of the hot paths; writes benchmarks/instructions.json
	$(BIN)/python benchmarks/instructions.py --write benchmarks/instructions.json

instructions-compare: $(VENV)/installed valgrind  ## cases that take over 3 % more instructions than stored
	$(BIN)/python benchmarks/instructions.py --compare benchmarks/instructions.json

instructions-check: $(VENV)/installed valgrind  ## the same; does nothing with another build of Python than the stored one
	$(BIN)/python benchmarks/instructions.py --check benchmarks/instructions.json

first-message: $(VENV)/installed  ## the time from the start of a process to its first PUBACK, and that of paho; writes docs/imports.md
	$(BIN)/python benchmarks/first_message.py
	$(BIN)/python benchmarks/import_times.py docs/imports.md

simulate: $(VENV)/installed-test  ## a million schedules of faults in the simulator (N=1000000)
	$(BIN)/python tests/simulation/simulate.py $(or $(N),1000000)

explore: $(VENV)/installed-test  ## every state of the reference scenarios, and every planted fault; writes docs/exploration.md
	$(BIN)/python tests/exploration/explore.py

differential: $(VENV)/installed-test  ## other brokers and clients and ours on the same bytes, S seconds for each broker (S=120); writes docs/differential.md
	@sh tests/peers/install.sh interop
	$(BIN)/python tests/differential/differential.py --seconds $(or $(S),120)

attack: $(VENV)/installed-test  ## the effect of 60 attackers on other clients of a broker, for 21 attacks; S=20 seconds each
	$(BIN)/python benchmarks/attack.py --seconds $(or $(S),20) --json benchmarks/attacks.json; status=$$?; \
	$(BIN)/python benchmarks/attack.py --report benchmarks/attacks.json docs/reliability.md; exit $$status

chaos: $(VENV)/installed-test  ## 200 kills of processes during 100,000 messages, over failing connections; S=... for another seed
	$(BIN)/python tests/chaos/chaos.py 100000 200 $(or $(S),1)

stress: $(VENV)/installed-test  ## storms of signals, forks, thread switches, exits and garbage collections; T=3600 seconds in all
	STORM_SECONDS=$$(( $(or $(T),3600) / 14 )) $(BIN)/python -m pytest -q -o faulthandler_timeout=0 tests/process/test_storms.py

clean:             ## remove all generated files
	rm -rf $(VENV) $(COMPILED) .venv-peers .matrix site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .coverage tests/peers/node_modules

$(BIN)/python:
	@echo "creating the virtual environment $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is required, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(BIN)/python
	@echo "installing"
	@$(PIP) -e .
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(BIN)/python
	@echo "installing, with the requirements of the tests"
	@$(PIP) -e '.[test]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-docs: pyproject.toml | $(BIN)/python
	@echo "installing, with the requirements of the documentation"
	@$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/installed-release: pyproject.toml | $(BIN)/python
	@echo "installing, with the requirements of the release"
	@$(PIP) -e '.[release]'
	@touch $@

# Not an editable installation: the tests must import the compiled modules, not the sources.
$(COMPILED)/installed: pyproject.toml hatch_build.py $(wildcard mqttws/*.py mqttws/*/*.py mqttws/*/*.c pubsub/*.py pubsub/*/*.py sigv4/*.py)
	@echo "compiling: mypy, a C compiler, about a minute"
	@test -x $(COMPILED)/bin/python || $(PYTHON) -m venv $(COMPILED)
	@rm -rf build
	@MQTTWS_COMPILE=1 $(COMPILED)/bin/pip --disable-pip-version-check install --quiet '.[test]'
	@touch $@
