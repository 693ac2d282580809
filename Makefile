# make demo: set up, train on synthetic faces, report, run that model and the shipped one on a clip
# make test: set up, lint, run the tests
# make docs: set up, build the documentation site into site/
# make browser: assemble the web page in build/browser (needs npm)
PYTHON ?= python3
BIN := .venv/bin
RUN := outputs/demo/$(shell date +%Y-%m-%d_%H-%M-%S)

.PHONY: demo test browser lint docs setup clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info < (3, 14) else "Python 3.10 to 3.13 is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	# Of the two OpenCV wheels, the one installed last is in use: the one that can open windows.
	$(BIN)/python -m pip install --quiet -c constraints.txt --force-reinstall --no-deps opencv-python
	touch $@

demo: .venv/.ready
	$(BIN)/python -m emotion_lab.train experiment=demo hydra.run.dir=$(RUN)
	$(BIN)/python -m emotion_lab.evaluate ckpt=$(RUN) num_robustness=100 hydra.run.dir=$(RUN)/report
	$(BIN)/python -m emotion_lab.live ckpt=$(RUN) source=synthetic detector=haar display=none \
		save=$(RUN)/live.mp4 log=$(RUN)/live.jsonl hydra.run.dir=$(RUN)/live
	$(BIN)/python -m emotion_lab.live source=synthetic display=none \
		save=$(RUN)/shipped.mp4 log=$(RUN)/shipped.jsonl hydra.run.dir=$(RUN)/shipped

test: .venv/.ready lint
	$(BIN)/python -m pytest -n auto --dist worksteal

browser:
	$(PYTHON) docs/examples/browser/build.py build/browser

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build dist site
