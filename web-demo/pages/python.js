// python.js: a program in Python, run by Pyodide in a worker (python-worker.js).
import { $, fail, say } from "./common.js";
import { Python } from "./python-client.js";

$("code").value = `import numpy as np
import sardonyx as ort

# an ONNX file, planned here
session = ort.InferenceSession("silero-vad.onnx")
for port in session.get_inputs():
    print(port.name, port.type, port.shape)

feeds = {
    "input": np.zeros((1, 576), np.float32),
    "state": np.zeros((2, 1, 128), np.float32),
    "sr": np.array(16000, np.int64),
}
probability, state = session.run(None, feeds)
print("speech in silence:", probability)
print("providers:", session.get_providers())
`;
const python = new Python({ files: { "silero-vad.onnx": "models/silero-vad.onnx" } });

async function run() {
  $("run").disabled = true;
  $("progress").hidden = false;
  $("output").textContent = "";
  say("Starting Python (the first time loads about 10 MB)…");
  const start = performance.now();
  try {
    await python.run($("code").value, (text) => ($("output").textContent += text));
    say(`Done in ${((performance.now() - start) / 1000).toFixed(2)} s, in a worker.`);
  } catch (error) {
    $("output").textContent += error.message;
    fail(new Error("the program stopped; see the output"));
  } finally {
    $("run").disabled = false;
    $("progress").hidden = true;
  }
}

$("run").onclick = run;
$("code").onkeydown = (event) => event.ctrlKey && event.key === "Enter" && run();
