# `make demo`, `make test`, `make test-web` and `make lint` work on a machine that has Python >= 3.10
# (with venv) and make, and nothing else: each sets up `.venv` first if needed. Another interpreter is chosen with
# `make PYTHON=python3.12 ...`, another place for the environment with `make VENV=/path ...`.

PYTHON ?= python3
VENV ?= .venv

# The models of the demo and the tests are small: beyond a few threads they only wait for each other.
OMP_NUM_THREADS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n : 4)))
export OMP_NUM_THREADS
# Waiting threads spin a little before they sleep. Not at all makes a small model's iteration half as
# long again, since the next piece of work mostly comes at once; without end slows down many times
# over as soon as anything else runs on the same cores.
GOMP_SPINCOUNT ?= 10000
export GOMP_SPINCOUNT

BIN := $(VENV)/bin
READY := $(VENV)/.ready
UNFINISHED := $(VENV)/.unfinished
WEB := $(VENV)-web
SOURCES := co_detr configs tools datasets tests setup.py
DEMO := output/demo
DIGITS := $(or $(DETECTRON2_DATASETS),datasets)/digits
DEMO_TREES := output/demo-trees
TREES := $(or $(DETECTRON2_DATASETS),datasets)/trees

.PHONY: demo demo-trees test test-web lint format docs check-docs setup clean

demo: $(READY)
	$(BIN)/python datasets/prepare_digits.py
	$(BIN)/python tools/lazyconfig_train_net.py --resume \
		--config-file configs/co_deformable_detr/co_deformable_detr_digits.py \
		train.output_dir=$(DEMO) train.max_iter=900 train.eval_period=300
	$(BIN)/python tools/predict.py --confidence-threshold 0.3 --overwrite \
		--config-file configs/co_deformable_detr/co_deformable_detr_digits.py \
		--input "$(DIGITS)/val/00000[1-8].png" --output $(DEMO)/pictures \
		train.init_checkpoint=$(DEMO)/model_final.pth
	@echo "Trained and evaluated: $(DEMO)/log.txt. Detections drawn: $(DEMO)/pictures"

# Trains on one aerial photo, evaluates on another, and draws the latter, detected in tiles.
demo-trees: $(READY)
	$(BIN)/python datasets/prepare_trees.py
	$(BIN)/python tools/lazyconfig_train_net.py --resume \
		--config-file configs/co_dino/co_dino_trees.py train.output_dir=$(DEMO_TREES)
	$(BIN)/python tools/predict.py --confidence-threshold 0.2 --overwrite \
		--weights $(DEMO_TREES)/model_best.pth --tiles 400 --tile-overlap 100 \
		--input $(TREES)/photos/2019_YELL_2_541000_4977000_image_crop.png \
		--output $(DEMO_TREES)/pictures
	@echo "Trained and evaluated: $(DEMO_TREES)/log.txt. Trees drawn: $(DEMO_TREES)/pictures"

test: $(READY)
	$(BIN)/python -m pytest tests -rs

# The page of `co-detr web`, in a Chromium that is there.
test-web: $(WEB)/.ready
	$(WEB)/bin/python -m pytest tests/web -rs

lint: $(READY)
	$(BIN)/python -m ruff check $(SOURCES)
	$(BIN)/python -m black --check --quiet --diff $(SOURCES)
	$(BIN)/python -m mypy

format: $(READY)
	$(BIN)/python -m ruff check --fix $(SOURCES)
	$(BIN)/python -m black $(SOURCES)

# The pages as a site; a broken link or anchor is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean
	@echo "Open site/index.html"

# Runs the commands of the pages, from the pages, but for those that say why not.
check-docs: $(READY)
	$(BIN)/python tools/check_docs.py

setup: $(READY)

# A set-up that was interrupted or failed leaves $(UNFINISHED) behind; the next one starts over from
# an empty environment (pip's download cache makes that quick) instead of trusting half an install.
$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 10) or sys.exit("Python >= 3.10 is \
	needed, %s is %d.%d: choose another with `make PYTHON=python3.11 ...`" \
	% (sys.executable, v[0], v[1]))'
	@if [ -e $(UNFINISHED) ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		rm -rf $(VENV) && mkdir -p $(VENV) && touch $(UNFINISHED) && $(PYTHON) -m venv $(VENV); \
	fi
	@touch $(UNFINISHED)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt \
		-e ".[digits,trees,video,draw,report,export,polygons,docs,dev]"
	@mv $(UNFINISHED) $(READY)

# Gradio wants an older Pillow than the others are pinned to, and so has an environment of its own,
# which takes from $(VENV) what it does not bring. It is made anew whenever that changes.
$(WEB)/.ready: $(READY)
	rm -rf $(WEB)
	$(BIN)/python -m venv $(WEB)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" \
		% sysconfig.get_path("purelib"))' \
		> $$($(WEB)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	grep -v '^pillow==' constraints.txt > $(WEB)/constraints.txt
	echo 'pillow==12.3.0' >> $(WEB)/constraints.txt
	$(WEB)/bin/python -m pip install --disable-pip-version-check -c $(WEB)/constraints.txt \
		-e ".[web,browser]"
	@touch $@

clean:
	rm -rf $(VENV) $(WEB) build dist site *.egg-info
