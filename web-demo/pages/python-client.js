// python-client.js: the page's end of a Python worker. One worker, started at the first call; calls follow each other.
import { served } from "./common.js";

export class Python {
  #worker;
  #turn = Promise.resolve();

  /** files: {path: URL} put into Python's folder before the first program. */
  constructor({ files = {} } = {}) {
    this.files = Object.fromEntries(Object.entries(files).map(([path, url]) => [path, new URL(url, location.href).href]));
  }

  /** Run a program; `print` gets its output; resolves with {name: bytes} of the files it names in `wanted`. `given`: {path: ArrayBuffer}. */
  run(code, print = () => {}, { given = {}, wanted = [] } = {}) {
    const turn = Promise.all([this.#turn, served]).then(() => new Promise((resolve, reject) => {
      this.#worker ??= new Worker(new URL("python-worker.js", import.meta.url), { type: "module" });
      this.#worker.onmessage = ({ data }) => ("print" in data ? print(data.print) : data.error ? reject(new Error(data.error)) : resolve(data.files));
      this.#worker.onerror = (event) => reject(new Error(event.message || "Python could not be started"));
      this.#worker.postMessage({ code, given, wanted, files: this.files });
    }));
    this.#turn = turn.catch(() => {});
    return turn;
  }
}
