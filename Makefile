# make quickstart   a ModernBERT of your own from Chinese text, adapted to two tasks, within ten minutes
# make test         the tests; make test-slow: those that take long, too
# make lint types   style and types
# make bench        speed against transformers and datasets, both sides in one run (about an hour and a half)

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test test-slow lint types bench golden clean

quickstart: .venv/quickstart.installed
	$(BIN)/yanmo run recipes/quickstart.yaml

test: .venv/dev.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow"

test-slow: .venv/dev.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lint: .venv/dev.installed
	$(BIN)/ruff check .

types: .venv/dev.installed
	$(BIN)/pyright

bench: .venv/bench.installed
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/pretraining_speed.py --family bert gpt2 t5 xlnet electra
	$(BIN)/python benchmarks/corpus_speed.py
	$(BIN)/python benchmarks/time_to_loss.py
	$(BIN)/python benchmarks/beams.py
	$(BIN)/python benchmarks/finetuning_speed.py --train sample:sentiment-zh/train
	$(BIN)/python benchmarks/finetuning_speed.py --train sample:names-zh/train --task labelling

golden: .venv/dev.installed
	$(BIN)/python tests/train/make_golden.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/quickstart.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[samples]'
	@touch $@

.venv/dev.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[dev]'
	@touch $@

.venv/bench.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[samples,bench]'
	@touch $@
