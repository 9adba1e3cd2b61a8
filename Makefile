# Everything is set up in .venv: python3 (3.11 or newer) and make are all that must be there.
PYTHON ?= python3
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LINT := .venv-lint
CHAT := .venv-chat
# Two workers, each with one core: a server's start keeps little more than one busy.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

.PHONY: serve chat test test-slow lint format setup clean

serve: setup  ## serve the bundled demo model; FLAGS="--port 8000 ..." are passed on
	$(BIN)/python -m sglang_gemma4_ext.launch_server --demo $(FLAGS)

chat: $(CHAT)/.ready  ## a chat page for a running server; FLAGS="--server ADDRESS ..." are passed on
	$(CHAT)/bin/python -m sglang_gemma4_ext.chat_page $(FLAGS)

test: setup lint  ## everything that a commit must pass; ARGS="-k name" selects
	$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-slow: setup  ## the long ones too
	$(PYTEST) -m "not gpu" $(ARGS)

lint: $(LINT)/.ready  ## ruff and mypy, in a small environment of their own
	$(LINT)/bin/ruff check .
	$(LINT)/bin/ruff format --check .
	$(LINT)/bin/mypy

format: $(LINT)/.ready
	$(LINT)/bin/ruff check --fix .
	$(LINT)/bin/ruff format .

$(LINT)/.ready: requirements.lock Makefile
	$(PYTHON) -m venv $(LINT)
	$(LINT)/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock ruff mypy
	touch $@

# In an environment of its own: see the extra `chat` in pyproject.toml.
$(CHAT)/.ready: requirements-chat.lock Makefile
	$(PYTHON) -m venv $(CHAT)
	$(CHAT)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-chat.lock
	touch $@

setup: $(READY)

$(READY): requirements.lock pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sglang-gemma4-ext needs Python 3.11 or newer, and $(PYTHON) is %d.%d: set PYTHON=" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --compile-bytecode --requirements requirements.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) $(LINT) $(CHAT) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
