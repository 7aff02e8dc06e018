# sardonyx. `make demo` shows the main job on a real model; `make test` passes the tests. Both set up what they need in .venv.
PY := .venv/bin/python
export PYTHONDONTWRITEBYTECODE := 1
export PYTHONWARNINGS := ignore::DeprecationWarning

.PHONY: help wheels demo test test-all bench bench-web roofline site conformance lint generate clean setup-demo setup-site setup-test setup-all setup-bench

help:           ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup-demo:
	@.ci/setup demo
setup-site:
	@.ci/setup site
setup-test:
	@.ci/setup test
setup-all:
	@.ci/setup all
setup-bench:
	@.ci/setup bench

demo: setup-demo  ## convert a real model (magika), run it on this repository's files, compare with onnxruntime; in a terminal, then serve the demo pages (DEVICE=cpu or gpu chooses)
	@$(PY) -m tests.models.registry magika magika-config >/dev/null
	@$(PY) web-demo/demo.py .cache/models/magika.onnx .cache/models/magika-config.json
	@if [ -t 0 ] && [ -t 1 ]; then echo; echo "The demo pages (Ctrl-C ends it):"; $(MAKE) --no-print-directory site; fi

site: setup-site  ## build the demo pages into site/ and serve them on loopback
	@$(PY) -m tests.models.registry magika magika-config silero-vad-ifless ocr-det ocr-rec minilm >/dev/null
	@$(PY) web-demo/build.py site
	@.venv/bin/sardonyx serve site

lint: setup-test  ## ruff and mypy
	@$(PY) -m ruff check .
	@.ci/typecheck

test: setup-test  ## everything CI runs
	@$(PY) -m ruff check .
	@$(PY) -m tests.models.registry --small >/dev/null
	@.ci/test

test-all: setup-all lint  ## `make test` and the slow extras
	@$(PY) -m tests.models.registry --all >/dev/null
	@$(PY) -m pytest -q tests

bench: setup-bench ## sardonyx beside its peers; writes tests/bench/results.{json,md}
	@$(PY) -m tests.models.registry --all >/dev/null
	@env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(PY) -m tests.bench

roofline: setup-test ## rewrite webgpu/ROOFLINE.md: what the yardstick models cost on a GPU (counted, not timed)
	@$(PY) -m tests.bench.roofline >/dev/null

bench-web: setup-test ## sardonyx beside onnxruntime-web in one Chromium, on wasm and on WebGPU; writes tests/bench/{web,web_gpu}.{json,md}
	@$(PY) -m tests.bench.web
	@$(PY) -m tests.bench.web_gpu

conformance: setup-test ## run the whole backend suite and rewrite COVERAGE.md
	@$(PY) -m tests.conformance.coverage

generate: setup-test ## rewrite generated files (a test checks that they are current)
	@$(PY) core/ops/generate_index.py
	@$(PY) core/model/generate.py
	@$(PY) -m sardonyx.dtypes

wheels: setup-test ## wheels of all platforms, with the engine inside, and the one for Pyodide, into dist/
	@$(PY) -P core/engine/packaging.py dist
	@$(PY) -m sardonyx.wasm.wheel dist

clean:          ## remove what the targets above made
	rm -rf .venv .cache .dev .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
