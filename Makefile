# Everything sets itself up from a fresh clone; only python3 (3.10 or newer) is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
# What a word needs is installed: the demo does without linters and test clients.
DEMO_INSTALLED := $(VENV)/.installed-demo
INSTALLED := $(VENV)/.installed
BUILD := build
STORE := $(BUILD)/demo/store
PROTOS := pdserver/dialects/protos
SPREAD := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
OLDEST := .venv-oldest
SMOKE := test_config.py test_inference.py test_management.py test_grpc.py oip/test_rest.py oip/test_grpc.py

# Hundreds of processes start in the tests, and each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: help demo test test-oldest check format bench soak fuzz build image protos

help: ## list these words
	@echo "make WORD, where WORD is one of"
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST)

demo: $(DEMO_INSTALLED) $(addprefix $(STORE)/,digits.pdar diabetes.pdar ocr.pdar) ## serve real models and watch them answer (ONCE=1: then end; PORT=9080: other ports)
	@$(PY) examples/demo.py --folder $(BUILD)/demo $(if $(PORT),--port $(PORT)) $(if $(ONCE),--once)

test: $(INSTALLED) ## run the tests (COVERAGE=1: and tell how much of each room they run; FRONT_ENDS=2: of servers with so many)
	@for tools in paddle_clients tensorflow_clients deploy.tools converter; do $(PY) -m tests.$$tools & done; wait
	$(if $(COVERAGE),rm -rf build/coverage && mkdir -p build/coverage)
	$(PY) $(if $(COVERAGE),-m coverage run) -m pytest -q $(SPREAD)
	$(if $(COVERAGE),$(PY) -m tests.measured.rooms)

test-oldest: $(OLDEST)/.installed ## run some of the tests with the oldest versions that pyproject.toml allows
	$(OLDEST)/bin/python -m pytest -q $(SPREAD) $(addprefix tests/,$(SMOKE))

check: $(INSTALLED) ## lint, formatting, types, the links in the documentation, and what the code may never do
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PY) -m pytest -q tests/test_docs.py tests/security/test_forbidden.py

soak: $(INSTALLED) ## faults for as long as you like, and the figures (REQUESTS=20000 CYCLES=100 RESTARTS=10 SECONDS=5; WRITE=1: to the docs)
	PDSERVER_SOAK=$(or $(SCHEDULES),500) $(PY) -m pytest -q tests/catalogue tests/engine tests/cluster/test_schedules.py tests/cluster/test_machines.py
	$(PY) -m tests.soak $(if $(REQUESTS),--requests $(REQUESTS)) $(if $(CYCLES),--cycles $(CYCLES)) \
		$(if $(RESTARTS),--restarts $(RESTARTS)) \
		$(if $(filter command line,$(origin SECONDS)),--seconds $(SECONDS)) $(if $(WRITE),--write)

format: $(INSTALLED) ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED) ## compare speeds with other servers (SCENARIO=fit: one comparison; ROUNDS=3 SECONDS=5)
	$(PY) -m bench $(SCENARIO) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(filter command line,$(origin SECONDS)),--seconds $(SECONDS))

fuzz: $(INSTALLED) ## feed what reads strangers' bytes with worse and worse ones (TARGET=archives: one of them; SECONDS=30 each)
	$(PY) -m pip install --disable-pip-version-check -q --editable '.[fuzz]'
	@mkdir -p $(BUILD)
	@for target in $(or $(TARGET),$$($(PY) -W ignore -m tests.security.fuzz 2>/dev/null)); do echo "fuzzing $$target"; \
		$(PY) -W ignore -m tests.security.fuzz $$target $(BUILD)/fuzz $(if $(filter command line,$(origin SECONDS)),$(SECONDS),30) \
		>$(BUILD)/fuzz-$$target.log 2>&1 || { tail -30 $(BUILD)/fuzz-$$target.log; exit 1; }; done

protos: $(INSTALLED) ## describe the gRPC services anew, when a .proto file has changed
	cd $(PROTOS) && $(abspath $(PY)) -m grpc_tools.protoc -I. --include_imports --descriptor_set_out=descriptors.binpb \
		$$(find . -name '*.proto' -printf '%P\n' | LC_ALL=C sort)

image: $(INSTALLED) ## the image's root file system without a container engine, and its tests (as root, with debootstrap)
	$(PY) docker/rootfs.py build docker/Dockerfile $(BUILD)/rootfs
	$(PY) -m pytest -q tests/deploy/test_image.py

build: $(INSTALLED) ## make the wheel and the source distribution in dist/
	rm -rf dist
	$(PY) -m build

$(DEMO_INSTALLED): EXTRAS := cpu,demo
$(INSTALLED): EXTRAS := cpu,dev

# A virtual environment without pip (left by a python3 that lacks ensurepip) is made anew.
$(DEMO_INSTALLED) $(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is missing or older than 3.10; name another one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); } || \
		{ echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PY) -m pip install --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

# uv, for pip always takes the newest.
$(OLDEST)/.installed: pyproject.toml
	rm -rf $(OLDEST)
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --disable-pip-version-check -q uv
	$(OLDEST)/bin/uv pip install -q --python $(OLDEST)/bin/python --resolution lowest-direct --editable '.[cpu,dev]'
	@touch $@

# The examples: trained and packed anew only when what they are made of has changed.
$(BUILD)/%/model.json: examples/%/train.py examples/%/data.py | $(DEMO_INSTALLED)
	$(PY) examples/$*/train.py --output $(BUILD)/$*

$(STORE)/digits.pdar: $(BUILD)/digits/model.json $(addprefix examples/digits/,model-config.yaml index_to_name.json)
	$(BIN)/pd-model-archiver --model-name digits --version 1.0 --handler image_classifier \
		--serialized-file $(BUILD)/digits/model.json --config-file examples/digits/model-config.yaml \
		--extra-files examples/digits/index_to_name.json --export-path $(STORE) --force

$(STORE)/diabetes.pdar: $(BUILD)/diabetes/model.json $(addprefix examples/diabetes/,model-config.yaml handler.py)
	$(BIN)/pd-model-archiver --model-name diabetes --version 1.0 --handler examples/diabetes/handler.py \
		--serialized-file $(BUILD)/diabetes/model.json --config-file examples/diabetes/model-config.yaml \
		--extra-files $(BUILD)/diabetes/scaling.json --export-path $(STORE) --force

# As examples/ocr/README.md does it. Where its models can't be fetched, the demo goes on without it.
OCR := $(BUILD)/ocr
$(STORE)/ocr.pdar: $(wildcard examples/ocr/*.py examples/ocr/*.yaml) | $(DEMO_INSTALLED)
	@( $(PY) examples/ocr/fetch.py --output $(OCR) && $(PY) examples/ocr/pages.py --output $(OCR) && \
		for model in det cls rec; do \
			$(BIN)/pd-model-archiver --model-name $$model --version 1.0 --export-path $(OCR) --force \
				--serialized-file $(OCR)/$$model/inference.pdmodel --config-file examples/ocr/$$model.yaml \
				$$([ $$model != rec ] || echo --handler examples/ocr/likeliest.py) || exit 1; \
		done && cp examples/ocr/pipeline.yaml examples/ocr/steps.py $(OCR) && \
		$(BIN)/pd-model-archiver --model-name ocr --version 1.0 --pipeline $(OCR)/pipeline.yaml \
			--extra-files $(OCR)/characters.txt --export-path $(STORE) --force \
	) || echo "the demo goes on without the OCR example" >&2
