"""The suite's cases in Chromium: the model's stored programs through the JavaScript runtime, in one page a process. Strict by nature: there is no NumPy to fall back to. On WebGPU nodes may
run on the wasm engine instead, which is said.

What the JavaScript API can not express (strings, sequences, maps, optionals) and what has no kernels fails with that reason.
"""
from __future__ import annotations

import atexit
import base64
import io
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sardonyx.converter import convert
from sardonyx.model import read_model, read_programs
from sardonyx.package import Do, Package
from sardonyx.providers.blocks import reads_data
from sardonyx.types import DType

#: In the page: {model, feeds: {name: [type, dims, base64]}, providers} → {made: [[type, dims, base64] of each output], about: where it ran}.
RUN = """async ({ model, feeds, providers }) => {
  const ort = await import('/sardonyx/index.js');
  Object.assign(ort.env.wasm, { proxy: false, numThreads: 1 });
  const tensor = ([type, dims, text]) => {
    const bytes = Uint8Array.fromBase64(text);
    const empty = new ort.Tensor(type, [], [0]).data.constructor;
    return new ort.Tensor(type, new empty(bytes.buffer), dims);
  };
  const session = await ort.InferenceSession.create(Uint8Array.fromBase64(model), { executionProviders: providers });
  try {
    const made = await session.run(Object.fromEntries(Object.entries(feeds).map(([name, one]) => [name, tensor(one)])));
    const outputs = session.outputNames.map((name) => [made[name].type, made[name].dims, new Uint8Array(made[name].data.buffer).toBase64()]);
    return { outputs, about: session.explain() };
  } finally {
    await session.release();
  }
}"""
#: JavaScript's names where they are not ONNX's.
NAMES = {DType.FLOAT: "float32", DType.DOUBLE: "float64"}


@cache
def page() -> Any:
    """The page of this process, on a server of its own."""
    from playwright.sync_api import sync_playwright
    from sardonyx.converter.cli.serve import Server
    from sardonyx.wasm.runtime import copy_runtime

    from tests.browser.conftest import ARGUMENTS, CHROMIUM, PAGES
    folder = Path(tempfile.mkdtemp(prefix="sardonyx-chromium-"))
    copy_runtime(folder)
    server = Server({"/": PAGES, "/sardonyx/": folder}).__enter__()
    driver = sync_playwright().start()
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    atexit.register(lambda: (browser.close(), driver.stop(), server.__exit__()))
    made = browser.new_page()
    made.goto(server.address)
    return made


def stored(model: Any, webgpu: bool) -> bytes:
    """What `sardonyx convert` stores of the model as it is; InvalidArgument where a node has no kernels."""
    file = io.BytesIO()
    convert(model, file, optimize=False, **({"store": False, "webgpu": True} if webgpu else {"plan": [{}]}))
    return file.getvalue()


def reads(sdx: bytes) -> bool:
    """Whether the file's programs compute anything of what they are given: not all was known when it was converted."""
    package = Package.unpack(read_programs(sdx)[1])
    return any(reads_data(placed.program) for placed in package.programs) or any(segment.do is not Do.PROGRAM for block in package.blocks for segment in block.segments)


def packed(array: np.ndarray, dtype: DType) -> bytes:
    """An array's bytes as the JavaScript API has them: 4- and 2-bit elements packed, the first in the low bits."""
    if dtype.bits >= 8 or dtype.name.startswith("FLOAT6"):
        return np.ascontiguousarray(array).tobytes()
    each, mask = 8 // dtype.bits, (1 << dtype.bits) - 1
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & mask
    padded = np.pad(flat, (0, -flat.size % each)).reshape(-1, each)
    return np.bitwise_or.reduce(padded << (np.arange(each, dtype=np.uint8) * dtype.bits), axis=1).astype(np.uint8).tobytes()


def unpacked(data: bytes, dtype: DType, dims: list[int]) -> np.ndarray:
    """The inverse of `packed`."""
    if dtype.bits >= 8 or dtype.name.startswith("FLOAT6"):
        return np.frombuffer(data, dtype.numpy).reshape(dims)
    each, mask = 8 // dtype.bits, (1 << dtype.bits) - 1
    raw = (np.frombuffer(data, np.uint8)[:, None] >> (np.arange(each, dtype=np.uint8) * dtype.bits)) & mask
    flat = raw.reshape(-1)[:int(np.prod(dims))]
    if dtype.is_signed_integer:
        flat = np.where(flat >> (dtype.bits - 1), flat.astype(np.int16) - (1 << dtype.bits), flat).astype(np.int8)
        return flat.astype(dtype.numpy).reshape(dims)
    return (flat.view(dtype.numpy) if dtype.is_float else flat.astype(dtype.numpy)).reshape(dims)


def run(sdx: bytes, inputs: list[Any], webgpu: bool = False) -> tuple[list[Any], str]:
    """The outputs of a converted model in the page, and where it ran ("strict": on the engine alone, or on the GPU but for shape arithmetic; "no kernel"; else why not)."""
    model = read_model(sdx)
    given = list(inputs) + [None] * (len(model.graph.inputs) - len(inputs))
    feeds = {}
    for value, x in zip(model.graph.inputs, given, strict=True):
        if value.const is not None and x is not None:
            raise NotImplementedError("an input with a default is given: programs have it as a constant")
        if value.const is None:
            if not isinstance(x, np.ndarray):
                raise NotImplementedError("sequences, maps and optionals stay in Python: the JavaScript API and programs have tensors")
            dtype = DType.of(x)
            if dtype is DType.STRING:
                raise NotImplementedError("strings stay in Python: programs have none")
            feeds[value.name] = [NAMES.get(dtype, dtype.text), list(np.shape(x)), base64.b64encode(packed(np.asarray(x), dtype)).decode()]
    file = stored(model, webgpu)
    made = page().evaluate(RUN, {"model": base64.b64encode(file).decode(), "feeds": feeds, "providers": ["webgpu" if webgpu else "wasm"]})
    numbers = {**{t.text: t for t in DType}, "float32": DType.FLOAT, "float64": DType.DOUBLE}
    about = made["about"].get("webgpu") or {"beside": [], "dispatches": reads(file)}
    place = next((b["reason"] for b in about["beside"] if not b["shape"]), "strict" if about["dispatches"] else "no kernel")
    return [unpacked(base64.b64decode(text), numbers[kind], dims) for kind, dims, text in made["outputs"]], place
