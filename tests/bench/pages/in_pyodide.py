"""MobileNetV2 in Pyodide, after the imports: a session of the stored program, planning anew, runs. `found` is what the page gives on."""
import time

import numpy as np
import sardonyx as ort


def timed(what):
    start = time.perf_counter()
    made = what()
    return made, 1e3 * (time.perf_counter() - start)


x = {"input": np.random.default_rng(7).standard_normal((1, 3, 224, 224), np.float32)}
stored, found_session = timed(lambda: ort.InferenceSession("/model.sdx"))
_, found_first = timed(lambda: stored.run(None, x))
_, found_second = timed(lambda: ort.InferenceSession("/model.sdx"))
planned, found_open = timed(lambda: ort.InferenceSession("/model.onnx"))
_, found_plan = timed(lambda: planned.run(None, x))
runs = [timed(lambda: stored.run(None, x))[1] for _ in range(60)]
found = {"session": found_session, "first": found_first, "second": found_second, "open": found_open, "plan": found_plan, "run": min(runs)}
