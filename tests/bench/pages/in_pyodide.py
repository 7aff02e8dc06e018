"""MobileNetV2 in Pyodide: the imports, a session of the stored program, planning anew, runs. `found` is what the page gives on, in milliseconds."""
import time

import numpy as np


def timed(what):
    start = time.perf_counter()
    made = what()
    return made, 1e3 * (time.perf_counter() - start)


def imports():
    from sardonyx import InferenceSession
    return InferenceSession


Session, found_imports = timed(imports)
x = {"input": np.random.default_rng(7).standard_normal((1, 3, 224, 224), np.float32)}
stored, found_session = timed(lambda: Session("/model.sdx"))
_, found_first = timed(lambda: stored.run(None, x))
_, found_second = timed(lambda: Session("/model.sdx"))
planned, found_open = timed(lambda: Session("/model.onnx"))
_, found_plan = timed(lambda: planned.run(None, x))
runs = [timed(lambda: stored.run(None, x))[1] for _ in range(60)]
found = {"imports": found_imports, "session": found_session, "first": found_first, "second": found_second, "open": found_open, "plan": found_plan, "run": min(runs)}
