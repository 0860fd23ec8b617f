# Everything a newcomer needs: `make demo` and `make test`. Both make .venv if there is none and say what they do.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= build/demo
CAPABILITY ?= all
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
DIGITS := samples/digits
PAGES := samples/pages
READER := samples.pages.network:page_reader
CXX_SOURCES = $(shell find contract ort_op trt_plugin samples tests bench -name "*.cpp" -o -name "*.h" -o -name "*.cu" -o -name "*.cuh")
LINT = $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy \
	&& $(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES) && $(BIN)/python tests/native/cpp_constants.py
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo check test thorough real coverage docs pictures ort kernels kernels-check lint format train-pages train-digits clean

help:
	@echo "make help          this list"
	@echo "make demo          pages of digits -> trained LCCL network -> ONNX -> engine -> comparison -> picture"
	@echo "make check         the linters and the quick tests: what to run after each change"
	@echo "make test          install what tests need, run them (of each at most ninety cases)"
	@echo "make thorough      all tests with every GPU architecture, every planted fault and more random cases"
	@echo "make real          the tests with networks and files of public packages (make test runs them too)"
	@echo "make coverage      all tests, with the lines of the package that they run"
	@echo "make ort           build ONNX Runtime's library of the CPU kernels; needs g++ and CMake (make demo does it)"
	@echo "make kernels       build the kernels and the TensorRT plugin; needs CMake, and nvcc or Triton, no GPU (CAPABILITY=8.9 for one GPU)"
	@echo "make kernels-check compile every Triton kernel for every architecture, and read registers, spills and instructions (no GPU)"
	@echo "make lint          ruff, mypy, clang-format, names of C++ constants"
	@echo "make format        let ruff and clang-format format the code"
	@echo "make docs          build the documents as a site into build/site"
	@echo "make pictures      draw the documents' pictures again, and print the README's tables"
	@echo "make train-pages   train the demo's three networks again (half an hour each)"
	@echo "make train-digits  train the two networks of samples/digits again"
	@echo "make clean         remove build outputs and the environment"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("lccl needs Python 3.11 or newer; run make with PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "-- making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "-- installing lccl with PyTorch, TensorRT for RTX and scikit-learn into $(VENV) (one to two minutes the first time)"
	@$(PIP) -e '.[export,rtx,train]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "-- installing what tests and linters need into $(VENV)"
	@$(PIP) -e '.[dev]'
	@touch $@

# The package of a checkout has the library only if it is built. What is missing ends no demo: the function runs everywhere.
# Tests build in the same folder, under the same lock.
ORT_LOCK := $(if $(shell command -v flock),flock build/ort/tests.lock)
ort: $(VENV)/.installed
	@echo "-- compiling ONNX Runtime's library of the CPU kernels (half a minute the first time)"
	@mkdir -p build/ort
	@$(ORT_LOCK) sh -c '{ cmake --preset ort && cmake --build --preset ort --parallel $(JOBS) && cmake --install build/ort --component python; } > build/ort.log 2>&1 \
		&& ! grep -q "Without liblccl_ort.so" build/ort.log || rm -f exporter/lccl/lib/liblccl_ort.so'
	@grep "Without liblccl_ort.so" build/ort.log || [ -f exporter/lccl/lib/liblccl_ort.so ] \
		|| { echo "-- without liblccl_ort.so: ONNX Runtime computes closed pixels too, through the function in the model."; \
		     echo "   It needs g++, CMake 3.25 or newer and, to get ONNX Runtime's header, the network; build/ort.log says what failed"; }

demo: ort
	@mkdir -p $(OUT)
	@echo "-- 1/4 checkpoint -> ONNX, checked against PyTorch"
	$(BIN)/lccl-export $(PAGES)/pixel.pt --factory $(READER) -o $(OUT)/pages.onnx --data samples.pages.data:ten
	@echo "-- 2/4 ONNX -> engine, ahead of time"
	$(BIN)/lccl-build-engine $(OUT)/pages.onnx
	@echo "-- 3/4 gated against dense, on the held-out pages"
	$(BIN)/lccl-compare $(PAGES)/pixel.pt $(OUT)/pages.onnx $(OUT)/pages.engine --factory $(READER) --baseline $(PAGES)/dense.pt --baseline-factory $(READER) --data samples.pages.data:held_out --metric samples.pages.score:f1 --max-metric-drop 0.005 --min-agreement 1 --allow-skipped --max-seconds 8
	@echo "-- 4/4 what it read, and where it computed"
	$(BIN)/python $(PAGES)/show.py -o $(OUT)/pages.png

# Of a test with many cases, ninety, evenly; `make thorough` and `make coverage` run them all.
MOST_CASES := $(if $(filter all,$(LCCL_TESTS)),,--few-cases 90)

# Two runs side by side, one for each core and about as long: native code above all, and the rest. One thread in each, or they take
# each other's cores.
FIRST := tests/cpu tests/emulator tests/native tests/ort tests/packaging tests/triton tests/trt tests/unit/graph \
	tests/unit/bench tests/unit/cuda tests/unit/fuzz tests/unit/nn tests/unit/triton
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python
# Of a test with many cases, twelve; `make test` runs ninety, `make thorough` all.
QUICK := -m "not slow and not native and not download" --few-cases 12
QUICK_FIRST := tests/unit/graph tests/unit/cli tests/unit/cuda tests/unit/exporting tests/unit/bench tests/unit/ort tests/unit/plugin
OWN_GROUP := $(BIN)/python -c 'import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])'

# Runs $(1) in the background and $(2) here; the target fails if either does. What $(1) says goes into $$log, and comes at the end.
# An interrupt ends both, and all that they started: the background has a process group of its own.
define side_by_side
	@mkdir -p build/coverage; log=build/$@-$$$$.log; background=; \
	trap 'exit 130' INT TERM; trap '[ -z "$$background" ] || kill -- -$$background 2>/dev/null; rm -f $$log' EXIT; \
	$(OWN_GROUP) sh -c '$(1)' > $$log 2>&1 & background=$$!; \
	echo "-- $(3), into $$log"; \
	$(2); here=$$?; \
	wait $$background; there=$$?; background=; cat $$log; [ $$here -eq 0 ] && [ $$there -eq 0 ]
endef

check: $(VENV)/.installed-dev
	$(call side_by_side,$(LINT) && $(PYTEST) -m pytest -q -o cache_dir=build/first-half $(QUICK_FIRST) $(QUICK),$(PYTEST) -m pytest -q tests/unit tests/gpu $(QUICK_FIRST:%=--ignore=%) $(QUICK),the linters and a part of the tests run meanwhile)

define both_halves
	$(call side_by_side,$(PYTEST) $(1) -m pytest -o cache_dir=build/first-half $(FIRST) $(3)$(2),$(PYTEST) $(1) -m pytest $(FIRST:%=--ignore=%) --ignore=tests/real $(3),the first half of the tests runs meanwhile)
endef

# PYTEST_ARGS=... is one run with these arguments.
test: $(VENV)/.installed-dev
ifdef PYTEST_ARGS
	$(BIN)/python -m pytest $(PYTEST_ARGS)
else
	$(call both_halves,, && make --no-print-directory real,$(MOST_CASES))
endif

# `make test` takes a fixed share of what takes long; this takes all of it.
thorough:
	LCCL_TESTS=all $(MAKE) --no-print-directory test

# Classes and files of public packages, which lie in a folder of their own: the environment has none of them. By themselves, since
# what torchvision adds to PyTorch on import stays in the process.
real: $(VENV)/.installed-dev
	@echo "-- taking packages with real classes and files into build/real (100 MB the first time)"
	@$(BIN)/python tests/real/packages.py
	$(PYTEST) -m pytest tests/real --all-real

# All tests, with the lines of the package that they run. A command that a test starts is measured too.
coverage: $(VENV)/.installed-dev
	@$(BIN)/coverage erase
	$(call both_halves,-m coverage run)
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered
	$(BIN)/python tests/support/coverage_by_package.py

kernels: $(VENV)/.installed
	@echo "-- compiling the TensorRT plugin and its kernels (minutes; for all GPUs, or those in CAPABILITY)"
	$(BIN)/lccl-build-plugin --compute-capability $(CAPABILITY) --jobs $(JOBS)

kernels-check: $(VENV)/.installed-dev
	$(BIN)/python tests/native/compiled_triton.py --jobs $(JOBS)

lint: $(VENV)/.installed-dev
	$(LINT)

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "-- build/site/index.html; its search needs a server: python -m http.server --directory build/site"

pictures: $(VENV)/.installed-dev
	$(BIN)/python docs/pictures.py

train-pages: $(VENV)/.installed
	$(BIN)/python $(PAGES)/train.py dense
	$(BIN)/python $(PAGES)/train.py pixel
	$(BIN)/python $(PAGES)/train.py grid

train-digits: $(VENV)/.installed
	$(BIN)/python $(DIGITS)/train.py

clean:
	rm -rf build dist exporter/lccl/lib $(VENV)
