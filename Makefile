# make demo    explain one picture with the bundled network; the report lands in out/demo
# make test    lint and all tests
# make lint    ruff, mypy and the import contracts only
# make clean   remove everything these made, the virtual environment included
#
# Needs Python 3.11, 3.12 or 3.13 with venv, and nothing else installed. Choose one with PYTHON=...

VENV     := .venv
BIN      := $(VENV)/bin
EXAMPLE  := examples/digits_in_clutter
OUT      := out/demo
PICTURE  := $(EXAMPLE)/inputs/digit_3.png
WORKERS  ?= 2
PIP      := $(BIN)/python -m pip --disable-pip-version-check -qq

# naflow depends on naflow-client, which is built from this repository and never looked up elsewhere.
CLIENT   := $(patsubst %/pyproject.toml,./%,$(wildcard clients/python/pyproject.toml))
PROJECTS := pyproject.toml $(wildcard clients/python/pyproject.toml)

.PHONY: help demo test lint clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(VENV)/.runtime
	$(BIN)/naflow inspect $(EXAMPLE)/digits_in_clutter.onnx
	$(BIN)/naflow explain $(EXAMPLE)/digits_in_clutter.onnx $(PICTURE) --out $(OUT) \
		--preprocess $(EXAMPLE)/preprocess.json --labels $(EXAMPLE)/labels.txt
	@echo "The report is at $(abspath $(OUT))/report.html"

test: lint
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) out build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first of these that runs and has the right version; a shim that points nowhere is passed over.
$(VENV)/.created:
	@for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python); do \
		if "$$python" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
			>/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 with venv found$(if $(PYTHON), at $(PYTHON)); set PYTHON=/path/to/python" >&2; \
		exit 2; \
	fi; \
	echo "Creating $(VENV) with $$found"; "$$found" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.runtime: $(PROJECTS) | $(VENV)/.created
	@echo "Installing naflow into $(VENV) (once; about a minute)"
	@$(PIP) install $(CLIENT) --editable .
	@touch $@

$(VENV)/.test: $(PROJECTS) | $(VENV)/.created
	@echo "Installing naflow and the test tools into $(VENV) (once; about two minutes)"
	@$(PIP) install $(CLIENT) --editable '.[server,tracing,test,examples]'
	@touch $@ $(VENV)/.runtime
