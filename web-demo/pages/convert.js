// convert.js: the converter (Python, in a worker) on a dropped file; the result to download, and the lines that run it.
import { $, bytes, dropZone, fail, ort, say } from "./common.js";
import { Python } from "./python-client.js";

const python = new Python();
const CODE = `import sardonyx
sardonyx.convert("model.onnx", "model.sdx")
for kind, ports in (("input", (s := sardonyx.InferenceSession("model.sdx")).get_inputs()), ("output", s.get_outputs())):
    for port in ports:
        print(f"{kind:7}{port.name}: {port.type[7:-1]} {port.shape}")
`;

async function convert(file) {
  $("progress").hidden = false;
  $("made").hidden = true;
  $("report").textContent = "";
  say(`Converting ${file.name} (${bytes(file.size)}); the first time Python is loaded…`);
  const start = performance.now();
  try {
    const made = await python.run(CODE, (text) => ($("report").textContent += text), { given: { "model.onnx": await file.arrayBuffer() }, wanted: ["model.sdx"] });
    const name = file.name.replace(/\.onnx$/i, "") + ".sdx";
    const blob = new Blob([made["model.sdx"]]);
    URL.revokeObjectURL($("download").href);
    Object.assign($("download"), { href: URL.createObjectURL(blob), download: name, textContent: `Download ${name} (${bytes(blob.size)})` });
    $("snippet").textContent = `<script type="module">\n  import * as ort from "./sardonyx/index.js";\n  const session = await ort.InferenceSession.create("${name}");\n  // session.inputMetadata, session.run({name: new ort.Tensor(…)})\n</script>`;
    const session = await ort.InferenceSession.create(blob).catch((error) => error);
    const works = session instanceof ort.InferenceSession ? "It opens in this page's runtime." : `${session.message}`;
    if (session instanceof ort.InferenceSession) await session.release();
    say(`Converted in ${((performance.now() - start) / 1000).toFixed(1)} s. ${works}`);
    $("made").hidden = false;
  } catch (error) {
    fail(new Error(error.message.trim().split("\n").at(-1)));
  } finally {
    $("progress").hidden = true;
  }
}

dropZone($("drop"), ([file]) => convert(file));
