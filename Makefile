# Needs python3 (3.10 or later) and make; everything else is put into git-ignored folders of this one.
PYTHON ?= python3
HOST := 0.30.0
# What `make test` runs the nodes in, the newest first. 0.24.1 has a lock file too: make test HOSTS="0.24.1".
HOSTS ?= $(HOST) 0.18.2
LOCKED := $(patsubst requirements/host-%.txt,%,$(wildcard requirements/host-*.txt))

PY := .venv/bin/python
UV := .venv/bin/uv
READY := .venv/.ready
OTHER_READY := $(patsubst %,.venv-%/.ready,$(filter-out $(HOST),$(HOSTS)))
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header

.DEFAULT_GOAL := help
.PHONY: help setup demo test unit host tiny bench pictures sdist lock clean clean-cache

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) .host/$(HOST)  ## environment and ComfyUI, into .venv and .host

demo: setup  ## harmonize a photograph in a headless ComfyUI; picture and figures into out/
	@$(PY) -m diffharmony.tests.host.demo

# The tests' own kernels compete for the cores with each other, and with the servers that they start. What a file's tests make once, and
# a host's server, stays in one process (tests/conftest.py).
test unit: export OMP_NUM_THREADS ?= 1
PYTEST := .venv/bin/pytest --numprocesses auto --maxprocesses 8 --dist loadgroup --durations 20
test: $(HOSTS:%=.host/%) $(OTHER_READY) unit  ## unit tests, then the nodes and, in a browser, the workflows, in ComfyUI of HOSTS
	@DIFFHARMONY_HOSTS="$(HOSTS)" $(PYTEST) tests/host tests/browser

unit: $(READY)  ## unit tests alone, which need no ComfyUI, over all cores
	@$(PYTEST) tests/unit

host: setup  ## ComfyUI with these nodes and the tiny models, for your browser (PORT=8188)
	@$(PY) -m diffharmony.tests.host.comfy_server --port $(or $(PORT),8188)

tiny: setup  ## train the tiny models of assets/tiny again
	@$(PY) -m diffharmony.applications.tiny.make

bench: setup  ## speed, memory and quality of the decode beside references, into docs/benchmarks.md
	@$(PY) -m diffharmony.applications.benchmarks page

pictures: setup  ## the pictures of the workflows and of the help pages again, after other models or demo photographs; needs Chromium
	@$(PY) -m diffharmony.tests.browser.template_pictures
	@$(PY) -m diffharmony.tests.browser.help_pictures

# Editable, as tests are no part of what is installed; the lock's versions, of what pyproject.toml asks for alone.
TESTS ?= tests/unit
sdist: $(READY)  ## the source distribution, and its unit tests (TESTS=…) where it was unpacked, in an environment of its own
	@rm -rf build/sdist && mkdir -p build/sdist/tree
	@$(PY) -c "from setuptools import build_meta; build_meta.build_sdist('build/sdist')" >build/sdist/log
	@tar -xzf build/sdist/*.tar.gz -C build/sdist/tree --strip-components 1
	@$(UV) venv --quiet --python $(PY) build/sdist/env
	@$(UV) pip install --quiet --python build/sdist/env/bin/python --constraint requirements/host-$(HOST).txt --editable "build/sdist/tree[train,dev]"
	@cd build/sdist/tree && OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} ../env/bin/pytest $(TESTS)

lock: $(UV) $(LOCKED:%=.host/%)  ## resolve requirements/*.txt again (UPGRADE=--upgrade for newer versions)
	$(COMPILE) $(UPGRADE) .host/$(HOST)/requirements.txt requirements/pins.in pyproject.toml --extra train --extra dev \
		--output-file requirements/host-$(HOST).txt
	$(foreach version,$(filter-out $(HOST),$(LOCKED)),$(COMPILE) $(UPGRADE) .host/$(version)/requirements.txt requirements/pins.in requirements.txt \
		--output-file requirements/host-$(version).txt &&) true
	echo "uv" | $(COMPILE) $(UPGRADE) - --output-file requirements/uv.txt

clean:  ## remove environments, ComfyUI and outputs; the training of make tiny stays in .cache
	rm -rf .venv .venv-* .host build out

clean-cache:  ## remove .cache too: hours of make tiny, its data and its states
	rm -rf .cache

$(UV): requirements/uv.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 10) or sys.exit("python3 must be 3.10 or later, got %d.%d. Run make PYTHON=<a newer one>." % v[:2])'
	@$(PYTHON) -m venv .venv || { echo "python3 must be able to make a virtual environment. On Debian: apt-get install python3-venv." >&2; exit 1; }
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

$(READY): $(UV) requirements/host-$(HOST).txt pyproject.toml
	@echo "Installing the environment for ComfyUI $(HOST) into .venv (about 6 GB)"
	@$(UV) pip install --quiet --python $(PY) --require-hashes --requirement requirements/host-$(HOST).txt
	@$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

.venv-%/.ready: $(UV) requirements/host-%.txt
	@echo "Installing the environment for ComfyUI $* into .venv-$*"
	@$(UV) venv --quiet --allow-existing --python $(PY) .venv-$*
	@$(UV) pip install --quiet --python .venv-$*/bin/python --require-hashes --requirement requirements/host-$*.txt
	@touch $@

.host/%: | $(UV)
	@$(PY) tests/host/fetch_host.py $*
