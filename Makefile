# One command each; every target first sets up .venv if it has to, and never twice.

PY := .venv/bin/python
# Processes that share the tests: a test may need more than one core, so no more of them on a larger machine either.
JOBS ?= 2
# Debian keeps the broker in /usr/sbin, Homebrew in its own sbin; neither is on every user's PATH.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/opt/homebrew/sbin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check bench results torture fuzz thin compose constraints schedules studies

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/ready: pyproject.toml constraints.txt scripts/venv.sh
	@scripts/venv.sh
	@touch $@

demo: .venv/ready ## twenty devices with bad links learn to read digits over a real broker
	@$(PY) -m simulator rehearse examples/demo.toml

test: .venv/ready ## every test; ends with what was skipped, and why
	@mosquitto=$$(command -v mosquitto) && echo "Mosquitto: $$mosquitto, the tests use it" \
		|| echo "Mosquitto: not found, the tests that need it are skipped (Debian, Ubuntu: apt install mosquitto)"
	@$(PY) -m pytest -n $(JOBS) --dist worksteal

check: .venv/ready ## ruff and mypy
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy

schedules: .venv/ready ## 20,000 crash schedules in virtual time; a failing one prints its seed
	@$(PY) -m simulator schedules --seeds 0:20000

bench: .venv/ready ## rounds beside Flower's and the bare pipe's, simulated fleets beside Flower's simulation; an hour
	@$(PY) -m bench --save

results: .venv/ready ## what learning is worth, with seeds, folds and intervals: docs/results.md; hours; ARGS=--help
	@$(PY) -m results $(ARGS)

torture: .venv/ready ## kill everything over and over and count whether anything is lost; goes on where it stopped; ARGS=--help
	@$(PY) -m simulator torture $(ARGS)

fuzz: .venv/ready ## a million hostile payloads on every topic, both ways; ARGS=--help says more
	@$(PY) -m tests.fuzz $(ARGS)

thin: .venv/ready ## 1 MiB down and up at 8 kB/s, at 2 kB/s and through resets, over a real broker; twenty minutes
	@$(PY) -m simulator rehearse examples/thin.toml

studies: .venv/ready ## what modes, windows, selection, quotas, weights and codecs are worth, in virtual time; minutes
	@scripts/studies.sh

compose: ## a fleet in containers under chaos, to its last round; then the report
	@scripts/compose.sh

constraints: .venv/ready ## pin anew what is installed now, after a change of pyproject.toml
	@sed -n '/^#/p' constraints.txt > .venv/pins
	@$(PY) -m pip freeze --all --exclude pip --exclude-editable | sed 's/+cpu$$//' | LC_ALL=C sort -f >> .venv/pins
	@mv .venv/pins constraints.txt && touch .venv/ready
