# `make demo` and `make test` set up everything they need; see scripts/setup.sh.
.PHONY: help demo test soak bench lint clean

help:
	@echo "make demo   build a bundle for this machine, run it, query it, show its MQTT status"
	@echo "make test   run the whole test suite"
	@echo "make soak   what takes too long for make test: power cuts, killed builds, many devices, fuzzing"
	@echo "make bench  compare with llama.cpp, transformers and the plain ONNX Runtime GenAI; hours"
	@echo "make lint   ruff, mypy, import-linter"
	@echo "make clean  remove .venv (the cache in ~/.cache/edgepack stays)"

demo: .venv/ready
	.venv/bin/edgepack demo

# Two at once, a file of tests each: so the fixtures of a file are made once, and what its tests do to
# the machine (control groups, loop devices) they do one after the other. Files are taken in their
# order, which has the long ones first; xdist would go by the number of their tests.
test: .venv/ready
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: .venv/ready
	.venv/bin/python -m pytest -m soak
	.venv/bin/python -m tests.power_cuts
	.venv/bin/python -m tests.support.killed_builds
	.venv/bin/python -m tests.device.under_systemd
	.venv/bin/python -m tests.support.many_devices
	.venv/bin/python -m tests.fuzz manifest --seconds 600
	.venv/bin/python -m tests.fuzz tar_reader --seconds 600
	.venv/bin/python -m tests.fuzz envelope --seconds 600
	.venv/bin/python -m tests.fuzz update --seconds 600
	.venv/bin/python -m tests.fuzz image --seconds 600
	.venv/bin/python -m tests.fuzz audio --seconds 600
	.venv/bin/python -m tests.support.schemas_at_bounds 2000

bench: .venv/ready
	.venv/bin/python -m scripts.bench

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

.venv/ready: pyproject.toml $(wildcard locks/*.txt) scripts/setup.sh
	scripts/setup.sh

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
