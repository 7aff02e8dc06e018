// A service worker that runs models itself: {url, data, dims} → {y, engine} or {error}.
import * as ort from "/sardonyx/index.js";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("message", (event) => event.waitUntil((async () => {
  const { url, data, dims, options } = event.data, [port] = event.ports;
  try {
    const session = await ort.InferenceSession.create(url, options);
    const { output } = await session.run({ input: new ort.Tensor("float32", data, dims) });
    await session.release();
    port.postMessage({ y: output.data, engine: session.engine });
  } catch (error) {
    port.postMessage({ error: [error.name, error.message] });
  }
})()));
