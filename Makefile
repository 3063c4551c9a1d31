# Every target sets up what it needs by itself: a virtual environment in .venv, filled from constraints.txt.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
WORKERS ?= 2
CONFIG ?= docs/examples/digits.toml
BENCH ?= --huge-pages
FUZZ ?= --seconds 60
FAULTS ?= --seconds 15

VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
KFAC_JAX := .venv-kfac-jax

# An environment with everything in it serves the demo as well; otherwise the demo installs only what it needs.
EVERYTHING := $(VENV)/.installed-all,docs,test
DEMO := $(firstword $(wildcard $(EVERYTHING)) $(VENV)/.installed-cli)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-quick test-exhaustive test-lowest test-kfac-jax lint docs check serve-docs examples mutants trust fuzz faults bench bench-device constraints clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target what; do printf '  make %-15s %s\n' "$$target" "$$what"; done

demo: $(DEMO)  ## train on the handwritten digits with NumPy: table, checkpoints, picture
	$(BIN)/mithril-losses train $(CONFIG) --overwrite

# One thread per library and worker: the workers share the cores among themselves. A worker takes neighbouring tests,
# which use what it has compiled before.
PYTEST := $(BIN)/python -m pytest --dist worksteal
test test-quick test-exhaustive test-lowest test-kfac-jax: export OMP_NUM_THREADS := 1
test test-quick test-exhaustive test-lowest test-kfac-jax: export OPENBLAS_NUM_THREADS := 1
test test-quick test-exhaustive test-lowest test-kfac-jax: export MKL_NUM_THREADS := 1

# Python keeps what it compiles, whatever the caller has set: the tests start some hundred processes.
test test-quick test-exhaustive test-lowest test-kfac-jax: export PYTHONDONTWRITEBYTECODE :=

# Most tests run what XLA compiles once. Left unoptimised, it is compiled in half the time and has the same meaning; what
# XLA's optimisations may break, such as NaN in a fused reduction, is marked `optimized_xla` and tested as users run it.
# One thread compiles: the workers keep the cores busy.
OPTIMIZED_XLA := --xla_cpu_parallel_codegen_split_count=1
UNOPTIMIZED_XLA := $(OPTIMIZED_XLA) --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true \
  --xla_cpu_use_fusion_emitters=false
AS_USERS_COMPILE = $(shell grep -lr --include='test_*.py' 'mark.optimized_xla' tests)
test: $(EVERYTHING)  ## run the tests on NumPy, JAX and PyTorch
	XLA_FLAGS="$(UNOPTIMIZED_XLA)" $(PYTEST) -n $(WORKERS) -m "not exhaustive and not optimized_xla"
	XLA_FLAGS="$(OPTIMIZED_XLA)" $(PYTEST) -n $(WORKERS) -m "not exhaustive and optimized_xla" $(AS_USERS_COMPILE)

test-quick: $(EVERYTHING)  ## LOSS=huber_loss: the laws of a loss (or a family), the tests of its family, its doctests
	XLA_FLAGS="$(UNOPTIMIZED_XLA)" $(PYTEST) -m "not exhaustive and not optimized_xla" --loss "$(LOSS)"

test-exhaustive: $(EVERYTHING)  ## run the tests that `make test` leaves out
	XLA_FLAGS="$(UNOPTIMIZED_XLA)" $(PYTEST) -n $(WORKERS) -m "exhaustive and not optimized_xla"
	XLA_FLAGS="$(OPTIMIZED_XLA)" $(PYTEST) -n $(WORKERS) -m "exhaustive and optimized_xla" $(AS_USERS_COMPILE)

# Old versions of these libraries call what newer versions of others deprecate: only those warnings are no errors here.
test-lowest: $(LOWEST)/.installed  ## run the tests on the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest --dist worksteal -n $(WORKERS) -m "not exhaustive" -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning

test-kfac-jax: $(KFAC_JAX)/.installed  ## run the tests with kfac-jax, which needs an older JAX than the others have
	$(KFAC_JAX)/bin/python -m pytest tests/optimize/test_kfac_jax.py "tests/project/test_docs.py::test_python_on_page_runs_and_prints_what_it_says[kfac-jax.md]" mithril_losses/optimize/kfac_jax.py

lint: $(EVERYTHING)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(EVERYTHING)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: lint docs test test-exhaustive test-kfac-jax  ## everything that a change must pass: lint, docs, all tests

serve-docs: $(EVERYTHING)  ## show the documentation in a browser, rebuilt as it is edited
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

examples: export OMP_NUM_THREADS := 1
examples: export OPENBLAS_NUM_THREADS := 1
examples: $(EVERYTHING)  ## train the models of the examples, and draw the pictures of their page anew
	cd docs/examples && for name in vae beta_vae gan flow language metric_embedding point_cloud mesh_smoothing denoising texture; do ../../$(BIN)/python $$name.py --picture $$name.png; done
	cd docs/examples && for name in split_processes split_devices; do ../../$(BIN)/python $$name.py; done
	cd docs/pictures && for name in boosting gauss_newton optimize; do ../../$(BIN)/python $$name.py; done

mutants: $(EVERYTHING)  ## break the library on purpose, see that the tests notice, and write docs/mutants.md
	$(BIN)/python tests/mutants.py --report docs/mutants.md

trust: export OMP_NUM_THREADS := 1
trust: $(EVERYTHING)  ## check every gradient on every backend, prove what can be proved, and write docs/trust.md
	$(BIN)/mithril-losses check --all --report docs/trust.md

fuzz: export OMP_NUM_THREADS := 1
fuzz: $(EVERYTHING)  ## generated configurations, which run or are refused in a clear line; special numbers and large offsets
	$(BIN)/python tests/fuzz.py $(FUZZ)
	$(BIN)/python tests/fuzz_numbers.py

faults: $(EVERYTHING)  ## kill, damage, fork and interrupt at random for some minutes, and write docs/faults.md
	$(BIN)/python tests/faults.py $(FAULTS) --report docs/faults.md

# Takes most of an hour, and wants the machine for itself.
bench: $(EVERYTHING)  ## measure speed and memory against other libraries, and write docs/benchmarks.md, profiles.md and domain-checks.md
	$(BIN)/mithril-losses bench $(BENCH) --csv docs/benchmarks.csv --chart docs/benchmarks.png --report docs/benchmarks.md
	$(BIN)/python -m mithril_losses.benchmarks.profile docs/profiles.md
	$(BIN)/python -m mithril_losses.benchmarks.domains docs/domain-checks.md

# Without an accelerator this says so and changes nothing. JAX sees one only if a build for it was installed.
bench-device: $(EVERYTHING)  ## check all gradients and measure speed on a GPU, if there is one, and write docs/benchmarks-gpu.md
	$(BIN)/python -m mithril_losses.benchmarks.device docs/benchmarks-gpu.md

# PyTorch pins the CUDA packages of its own build; which build a machine gets (+cpu, …) is left to that machine.
constraints:  ## pin the newest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear .venv-constraints
	.venv-constraints/bin/pip install -e ".[all,docs,test]"
	.venv-constraints/bin/pip freeze --exclude-editable | sed -E '/^(nvidia|cuda|triton)/d; s/\+[a-z0-9.]+$$//' > .venv-constraints/pins
	{ grep '^#' constraints.txt; cat .venv-constraints/pins; } > .venv-constraints/constraints.txt
	cp .venv-constraints/constraints.txt constraints.txt

clean:  ## remove the environment and everything that was built (runs/ stays)
	rm -rf $(VENV) $(LOWEST) $(KFAC_JAX) .venv-constraints build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that venv puts in place, so an interrupted creation is started again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv --clear $(VENV)

# The mode "compat" puts this folder on the path by a file, which type checkers read in other folders, too; by default
# an import hook finds the package, which they do not run.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install -c constraints.txt --config-settings editable_mode=compat -e ".[$*]"
	touch "$@"

# Which build of PyTorch a machine gets is left to that machine here, too: uv reads UV_TORCH_BACKEND (cpu, …).
$(LOWEST)/.installed: pyproject.toml
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/pip install uv
	$(LOWEST)/bin/uv pip install --python $(LOWEST)/bin/python --resolution lowest-direct -e ".[all,test,kfac-jax]"
	touch "$@"

# Only what these tests import: with all of the extras, pip searches for minutes.
$(KFAC_JAX)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(KFAC_JAX)
	$(KFAC_JAX)/bin/pip install -c <(grep -v '^jax' constraints.txt) -e ".[torch,kfac-jax]" pytest parameterized array-api-strict
	touch "$@"
