# Each target does its own set-up. Needs: Debian (or alike) with Python >= 3.11 and make; installs the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := pyproject.toml requirements.lock viewer/build_hook.py viewer/package-lock.json \
	viewer/index.html viewer/docs.html viewer/benchmarks.html \
	viewer/vite.config.ts viewer/tsconfig.json $(shell find viewer/src -type f 2>/dev/null)

.PHONY: help setup system test test-system clients gpu gpu-test lint format demo conformance screenshot bench mutation bench-check bench-all bench-report bench-sizes bench-concurrency bench-decode bench-bandwidth bench-endurance bench-startup bench-wire bench-reencode bench-hotpath bench-peers bench-huge bench-series bench-load bench-index bench-metadata bench-gpu fuzz-setup fuzz lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

system: ## install the one system package that a virtual environment needs, where it is missing
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "gpu-render needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || ./scripts/apt-install python3-venv

$(STAMP): $(SOURCES) | system
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

setup: $(STAMP) ## make .venv and install everything, the viewer too

test-system: ## what some tests need beside Python; they skip, with the reason, where it cannot be had
	@./scripts/test-system

clients: setup ## OHIF and other JavaScript clients for the tests (250 MB, with npm); the tests skip without them
	$(BIN)/python -m tests.clients.install

test: setup test-system $(if $(CI),clients) ## run the tests
	$(BIN)/pytest

gpu-test: gpu test-system ## run the tests that need an NVIDIA GPU (install the cuda12 or cuda13 extra first)
	$(BIN)/pytest -m gpu

gpu: setup # a device has to answer, or this says why none does
	@$(BIN)/gpu-render info --backend cuda

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: setup ## serve sample images and a CT phantom on http://127.0.0.1:8000/ and open the browser
	$(BIN)/gpu-render demo

conformance: setup ## compare pixels with DCMTK, GDCM, pydicom and highdicom; TABLE=file.md writes the table
	@command -v dcm2pnm >/dev/null && command -v c++ >/dev/null || ./scripts/apt-install dcmtk g++
	$(BIN)/python -m tests.conformance $(if $(TABLE),--markdown $(TABLE))

screenshot: setup test-system clients ## take README's and OHIF's pictures anew, with the tests that show them in a browser
	GPU_RENDER_SCREENSHOT=docs/images/viewer.png $(BIN)/pytest tests/viewer/test_demo.py
	GPU_RENDER_BENCHMARKS_SCREENSHOT=docs/images/benchmarks-page.png $(BIN)/pytest tests/viewer/test_benchmarks.py
	GPU_RENDER_OHIF_SCREENSHOT=docs/images/ohif.png $(BIN)/pytest tests/clients/test_ohif.py

bench: setup ## time to a slice, per transfer syntax; takes a few minutes
	$(BIN)/python -m benchmarks.slice

bench-check: setup ## whether this is slower than the baseline of this kind of machine; about three minutes; 1: slower, 2: no baseline
	$(BIN)/gpu-render bench --check

bench-all: setup ## every benchmark that this machine can run, and one HTML file; takes more than an hour
	$(BIN)/gpu-render bench --all --html benchmark-report.html

bench-report: setup ## all results as one HTML file that loads nothing
	$(BIN)/gpu-render bench --html benchmark-report.html

bench-sizes: setup ## time to a radiograph, a mammogram and a colour frame, per transfer syntax; takes several minutes
	$(BIN)/python -m benchmarks.sizes

bench-concurrency: setup ## 1 to 256 clients at once; takes about five minutes
	$(BIN)/python -m benchmarks.concurrency

bench-decode: setup ## codecs alone, and by the service's processes; takes four minutes
	$(BIN)/python -m benchmarks.decode

bench-bandwidth: setup ## windowing and unpacking on the CPU beside memcpy; takes a minute
	$(BIN)/python -m benchmarks.bandwidth

bench-endurance: setup ## memory over ten minutes of mixed requests
	$(BIN)/python -m benchmarks.endurance

bench-startup: setup ## start to ready, and memory of the idle service; takes about five minutes
	$(BIN)/python -m benchmarks.startup

bench-wire: setup ## compressed bodies, and slices over 10 to 1,000 Mbit/s; takes two minutes
	$(BIN)/python -m benchmarks.wire

bench-reencode: setup ## JPEG 2000 frames from copies that decode fast; takes two minutes
	$(BIN)/python -m benchmarks.reencode

bench-hotpath: setup ## processor time, calls and allocations of a request; py-spy says where the time goes; takes a minute
	$(BIN)/pip install --quiet --disable-pip-version-check py-spy
	$(BIN)/python -m benchmarks.hotpath

bench-peers: setup ## one slice from this service, Orthanc, nginx and the old design; takes a quarter of an hour; ORTHANC=folder: another Debian's
	$(BIN)/python -m benchmarks.peers $(if $(ORTHANC),--orthanc-root $(ORTHANC))

bench-huge: setup ## objects of 200,000 frames: time and memory to index them, time to a frame; takes several minutes
	$(BIN)/python -m benchmarks.huge

bench-series: setup ## series of 300 to 3,000 slices in one answer and one by one; takes about ten minutes, 1.6 GB of temporary files
	$(BIN)/python -m benchmarks.series

bench-load: setup ## one slice while a thousand prefetches wait, and 503s of a full service; takes several minutes
	$(BIN)/python -m benchmarks.load

bench-metadata: setup ## metadata of series of 1,000 and 3,000 instances over HTTP; takes several minutes
	$(BIN)/python -m benchmarks.metadata

bench-index: setup ## an index of 10,000 to 1,000,000 instances, and scans; takes about ten minutes; URL=postgresql://... adds a database
	$(BIN)/python -m benchmarks.index $(if $(URL),--url $(URL))

bench-gpu: gpu ## needs an NVIDIA GPU: its kernel beside a copy, and series beside the CPU and NVIDIA's plug-in
	$(BIN)/python -m benchmarks.roofline
	$(BIN)/python -m benchmarks.gpu

fuzz-setup: setup
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r tests/fuzz/requirements.txt

fuzz: fuzz-setup ## fuzz the parsers for FUZZ_SECONDS (default 60) in all
	$(BIN)/python -m tests.fuzz.run

mutation: setup test-system ## ask the service for 2,400 broken files beside good ones; takes a few minutes
	$(BIN)/python -m tests.mutation

lock: setup ## write the three lock files anew
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet pyproject.toml --extra test --group build --generate-hashes --universal \
		--python-version 3.11 --no-annotate --no-header --upgrade -o requirements.lock
	./deploy/lock

clean: ## remove what was made here
	rm -rf $(VENV) viewer/node_modules viewer/dist dist
