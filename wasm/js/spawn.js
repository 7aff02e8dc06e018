// spawn.js: a worker of this package, in a browser or in node, with one interface: post(message, transfer), onmessage, onfail, terminate().
import { WorkerCrashed } from "./errors.js";

export const isNode = typeof process === "object" && !!process.versions?.node && !process.versions.electron;

/** Start the worker in `file`, beside this one, under a name. `ready` fulfils with its first message. */
export async function spawn(file, name) {
  const url = new URL(file, import.meta.url);
  const made = isNode ? await nodeWorker(url, name) : browserWorker(url, name);
  const wrapped = { onmessage: () => {}, onfail: () => {}, post: (message, transfer = []) => made.postMessage(message, transfer), terminate: () => made.terminate() };
  wrapped.ready = new Promise((resolve, reject) => {
    const fail = (why) => {
      const error = new WorkerCrashed(`the worker ${file} ended: ${why}. Make the session again; with env.wasm.proxy = false no worker is used`);
      reject(error);
      wrapped.onfail(error);
    };
    const take = (data) => {
      resolve(data);
      wrapped.onmessage(data);
    };
    if (isNode) {
      made.on("message", take);
      made.on("error", (error) => fail(error.message));
      made.on("exit", (code) => code && fail(`exit code ${code}`));
      wrapped.ref = () => made.ref();
      wrapped.unref = () => made.unref();
    } else {
      made.onmessage = (event) => take(event.data);
      made.onerror = (event) => {
        event.preventDefault?.();
        fail(event.message || "it could not be loaded");
      };
      made.onmessageerror = () => fail("a message could not be read");
    }
  });
  wrapped.ready.catch(() => {});
  return wrapped;
}

/** A module worker; where the package comes from another origin, one that imports it. */
function browserWorker(url, name) {
  const here = globalThis.location?.origin;
  if (url.origin === here || url.protocol === "blob:" || !here || here === "null") return new Worker(url, { type: "module", name });
  const blob = URL.createObjectURL(new Blob([`import ${JSON.stringify(url.href)};`], { type: "text/javascript" }));
  const made = new Worker(blob, { type: "module", name });
  setTimeout(() => URL.revokeObjectURL(blob), 10000);
  return made;
}

/** Node's workers do not know their name: it is told as a browser would. */
async function nodeWorker(url, name) {
  const { Worker } = await import("node:worker_threads");
  return new Worker(`globalThis.name = ${JSON.stringify(name)}; import(${JSON.stringify(url.href)});`, { eval: true, name });
}

/** Whether this is a worker that `spawn` started under that name. */
export const isSpawned = (name) => globalThis.name === name && typeof document === "undefined";

/** Inside a worker: `handle(message, post)` for each message of whoever started it. Nothing is awaited first: a browser drops messages that come before there is a listener. */
export function listen(handle) {
  if (!isNode) {
    const post = (message, transfer = []) => self.postMessage(message, transfer);
    self.addEventListener("message", (event) => handle(event.data, post));
    return;
  }
  import("node:worker_threads").then(({ parentPort }) => parentPort.on("message", (data) => handle(data, (message, transfer = []) => parentPort.postMessage(message, transfer))));
}
