# Each target does its own set-up: a virtual environment in .venv with locked dependencies. No root.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := activities cli demo domain podctl podlet remote simulator workflows worker.py tests tools docs/examples
# Needs sshd and Chromium, kills things on purpose, or measures: not part of `make test`.
SYSTEM_TESTS := tests/system tests/chaos
LOCK := uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --universal \
	--python-version 3.11 --custom-compile-command "make lock" pyproject.toml tools/build-requirements.txt

.PHONY: help demo test test-system test-vllm failures check bench lock clean

help:
	@echo "make demo         a task from wish to completed on a simulated GPU pod, with the worker killed on the way"
	@echo "make test         every test that needs nothing but Python"
	@echo "make test-system  the tests against a real OpenSSH sshd, Chromium, and kill -9"
	@echo "make test-vllm    the tests with a real vLLM: make test-vllm VLLM=/path/to/bin/vllm MODEL=/path/to/model"
	@echo "make failures     docs/failures.md anew: makes each failure happen, and writes what was seen"
	@echo "make check        lint, format, types"
	@echo "make bench        measurements side by side; writes build/bench.json"
	@echo "make lock         resolve the locked dependencies anew (needs uv)"
	@echo "make clean        remove what these made, .venv included"

demo:
	@$(PYTHON) tools/bootstrap.py run
	$(BIN)/podctl demo

test:
	@$(PYTHON) tools/bootstrap.py development
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal tests $(SYSTEM_TESTS:%=--ignore=%) --ignore=tests/bench --ignore=tests/vllm
	@echo "left to make test-system: $(SYSTEM_TESTS) (OpenSSH sshd, Chromium, kill -9 at every step)"

test-system:
	@$(PYTHON) tools/bootstrap.py development
	@$(BIN)/python tools/system_programs.py
	$(BIN)/python -m pytest $(SYSTEM_TESTS)

test-vllm:
	@test -x "$(VLLM)" -a -d "$(MODEL)" || { echo "usage: make test-vllm VLLM=/path/to/bin/vllm MODEL=/folder/of/a/model" \
		"(a real vLLM that runs on this machine's CPU, and a model with a chat template that is small enough)" >&2; exit 2; }
	@$(PYTHON) tools/bootstrap.py development
	$(BIN)/python -m pytest -s tests/vllm --vllm-program "$(VLLM)" --vllm-model "$(MODEL)"

failures:
	@$(PYTHON) tools/bootstrap.py development
	-$(BIN)/python -m pytest tests/chaos/test_failure_matrix.py
	cp build/failures.md docs/failures.md

check:
	@$(PYTHON) tools/bootstrap.py development
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy --strict $(SOURCES)
	@# These two run on Pythons that we don't choose.
	$(PYTHON) -m py_compile podlet/podlet.py podlet/setup_steps.py tools/bootstrap.py

bench:
	@$(PYTHON) tools/bootstrap.py development
	$(BIN)/python -m tests.bench

lock:
	$(LOCK) --output-file requirements.lock
	$(LOCK) --extra development --constraint requirements.lock --output-file requirements-development.lock

clean:
	rm -rf .venv build dist podctl.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
