# Two commands are enough: `make demo` and `make test`. Both create the environment in .venv first.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python -m

.PHONY: setup demo test test-gpu docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q uv
	UV_FIND_LINKS="$$PIP_FIND_LINKS" $(VENV)/bin/uv pip install -q --python $(VENV)/bin/python -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(RUN) foundation demo

test: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(RUN) pytest -n 2 --dist worksteal -m "not gpu"

test-gpu: setup
	$(RUN) pytest -m gpu

docs: setup
	UV_FIND_LINKS="$$PIP_FIND_LINKS" $(VENV)/bin/uv pip install -q --python $(VENV)/bin/python -c constraints.txt -e ".[docs]"
	$(RUN) mkdocs build

clean:
	rm -rf $(VENV) build site *.egg-info
