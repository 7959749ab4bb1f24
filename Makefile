# Every target sets up what it needs, once. Without make: see README.md, "Without make".

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train evaluate app test test-long lint bench clean

train: $(VENV)/run
	$(BIN)/python train.py

evaluate: $(VENV)/run
	$(BIN)/python evaluate.py

app: $(VENV)/run
	$(BIN)/python app.py

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

# twenty kills of a ResNet-18, ten thousand damaged files of each kind
test-long: test
	LONG=1 FUZZ=10000 $(BIN)/python -m pytest tests/test_kill.py tests/test_fuzz.py tests/test_checkpoint.py \
		tests/test_onnx_file.py

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	$(BIN)/python -m benchmarks

# marks of finished installations; an interrupted one leaves none and is repeated
$(VENV)/run: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/dev: requirements.txt requirements-export.txt requirements-pretrained.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ $(VENV)/run

clean:
	rm -rf $(VENV)
