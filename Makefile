# Two commands: `make demo` and `make test`. Both build .venv first, and need nothing but Python 3.11 or later and an index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# How many processes share the tests. Each starts servers of its own, so there are at most eight.
JOBS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$(( $${cores:-2} < 8 ? $${cores:-2} : 8 )))

# The tests start hundreds of programs, each of which would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test mypy pyright litellm clean

help:
	@echo "make demo          show the product: a guarded LLM proxy on loopback, and real SDKs in front of it"
	@echo "make demo ONCE=1   the same, and exit when it has been shown: with 0 if all went as expected"
	@echo "make test          every check: lint, types, tests"
	@echo "make litellm       install the LiteLLM proxy, 700 MB, for the tests that put the layers in front of it; they are skipped without"
	@echo "make clean         remove what the others made"
	@echo
	@echo "PYTHON=python3.12  beside any of them: the interpreter that .venv is made with"
	@echo "JOBS=1             beside make test: how many processes share the tests, else as many as there are cores"

demo: $(VENV)/demo.stamp
	@ONCE="$(ONCE)" $(BIN)/python docs/examples/demo/demo.py

test: $(VENV)/dev.stamp
	@echo "== ruff" && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== import linter" && $(BIN)/lint-imports
	@$(MAKE) --no-print-directory --jobs=2 mypy pyright
	@echo "== pytest" && $(run-tests)

# Each runs on one core, so they run side by side, and each says what it found in one piece.
mypy pyright:
	@found=$$($(BIN)/$@ 2>&1); failed=$$?; printf '== %s\n%s\n' $@ "$$found"; exit $$failed

# It pins much, and against our own extras, so it has an environment of its own.
litellm:
	@$(MAKE) --no-print-directory VENV=.venv-litellm .venv-litellm/litellm.stamp

clean:
	rm -rf $(VENV) .venv-litellm .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .ruff_cache build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/demo.stamp: pyproject.toml
	@$(call install,demo)

$(VENV)/dev.stamp: pyproject.toml
	@$(call install,dev)
	@touch $(VENV)/demo.stamp # the group dev holds the group demo

$(VENV)/litellm.stamp: pyproject.toml
	@$(call install,litellm,.)

# Install the package with all extras, or as the second argument says, and one dependency group. What pip says goes to a log, and the person sees one line that
# moves; pip itself runs in the foreground, so that Ctrl-C reaches it.
define install
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "Python 3.11 or later is needed; $(PYTHON) is: $$($(PYTHON) --version 2>&1 | head -n 1). Choose one: make PYTHON=python3.12"; \
	exit 1; \
}; \
mkdir -p $(VENV); log=$(VENV)/install.log; begun=$$(date +%s); ticker=; \
elapsed() { echo "$$(( $$(date +%s) - begun )) s"; }; \
still() { test -z "$$ticker" || { kill "$$ticker"; wait "$$ticker"; printf '\r\033[K'; } 2>/dev/null; ticker=; }; \
trap still EXIT; trap 'exit 130' INT TERM; \
if [ -t 1 ]; then \
	( while :; do for dot in '.   ' ' .  ' '  . ' '   .'; do printf '\rInstalling into $(VENV) %s %s ' "$$dot" "$$(elapsed)"; sleep 1; done; done ) & \
	ticker=$$!; \
else \
	echo "Installing into $(VENV); what pip says goes to $$log"; \
fi; \
if { \
	$(PYTHON) -m venv $(VENV) && \
	$(BIN)/python -m pip install --upgrade 'pip>=25.1' && \
	$(BIN)/python -m pip install --editable '$(or $(2),.[all])' --group $(1); \
} >"$$log" 2>&1; then \
	still; touch $(VENV)/$(1).stamp; echo "Installed into $(VENV) in $$(elapsed)."; \
else \
	still; tail -n 25 "$$log"; echo "The installation failed after $$(elapsed); the whole log is $$log."; exit 1; \
fi
endef

# The report of coverage needs the tests to be over, and the last words are to be theirs.
define run-tests
log=$(VENV)/pytest.log; \
colour=$$(test -t 1 && echo yes || echo no); \
$(BIN)/coverage erase; \
{ $(BIN)/coverage run -m pytest --numprocesses=$(JOBS) --dist=worksteal --color=$$colour; echo $$? >$(VENV)/pytest.status; } 2>&1 | tee $$log; \
echo "== coverage" && $(BIN)/coverage combine --quiet && $(BIN)/coverage report; covered=$$?; \
echo "== pytest, once more"; sed -n '/short test summary info/,$$p' $$log | grep . || grep -E '(passed|failed|error).* in [0-9]' $$log | tail -n 1; \
test $$covered -eq 0 && exit $$(cat $(VENV)/pytest.status)
endef
