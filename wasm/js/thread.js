// thread.js: a worker that lends its thread to an engine: the module on the session's memory, with a stack of its own, inside sx_worker until it is terminated.
import { listen } from "./spawn.js";

listen(({ module, memory, stack }, post) => {
  const { exports } = new WebAssembly.Instance(module, { env: { memory, now: () => performance.now() } });
  exports.__stack_pointer.value = stack;
  post("ready");
  exports.sx_worker();
});
