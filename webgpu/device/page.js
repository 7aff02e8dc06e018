// page.js: what page.py calls of the page's GPU. It opens the device by the JavaScript runtime's module (wasm/js/gpu-device.js); bytes cross between Pyodide's memory and the GPU without a
// JavaScript value, lists of dispatches are made once and replayed here.
(pyodide, modules) => {
  const { openDevice } = modules["gpu-device.js"];
  const heap = () => pyodide.HEAPU8; // a growth replaces the array
  return {
    open: openDevice,
    add: (list, pipeline, group, x, y, z) => list.push({ pipeline, group, x, y, z }),
    list: () => [],
    write: ({ device }, buffer, offset, address, bytes) => device.queue.writeBuffer(buffer, offset, heap(), address, bytes),
    bind: ({ device }, layout, uniform, offset, size, buffers) => device.createBindGroup({
      layout, entries: [{ binding: 0, resource: { buffer: uniform, offset, size } }, ...buffers.map((buffer, i) => ({ binding: i + 1, resource: { buffer } }))],
    }),
    submit({ device }, list) {
      const encoder = device.createCommandEncoder(), pass = encoder.beginComputePass();
      let last = null;
      for (const { pipeline, group, x, y, z } of list) {
        if (pipeline !== last) pass.setPipeline((last = pipeline));
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(x, y, z);
      }
      pass.end();
      device.queue.submit([encoder.finish()]);
    },
    // As `submit`, each dispatch in a pass of its own: begin and duration of each in nanoseconds, the first one's begin is 0.
    async timed(gpu, list) {
      gpu.check();
      const encoder = gpu.device.createCommandEncoder(), clock = gpu.clock(list.length);
      try {
        for (const { pipeline, group, x, y, z } of list) {
          const pass = clock.pass(encoder);
          pass.setPipeline(pipeline);
          pass.setBindGroup(0, group);
          pass.dispatchWorkgroups(x, y, z);
          pass.end();
        }
        clock.end(encoder);
        gpu.device.queue.submit([encoder.finish()]);
        return (await clock.read()).flat();
      } finally {
        clock.free();
      }
    },
    // spans: [buffer, offset, bytes, address in Pyodide's memory] one after the other.
    async read(gpu, spans) {
      gpu.check();
      const encoder = gpu.device.createCommandEncoder(), copies = [];
      let total = 0;
      for (let i = 0; i < spans.length; i += 4) {
        copies.push([spans[i], spans[i + 1], spans[i + 2], spans[i + 3], total]);
        total += Math.ceil(spans[i + 2] / 8) * 8;
      }
      const staging = gpu.stage(Math.max(total, 8));
      for (const [buffer, offset, bytes, , at] of copies) if (bytes) encoder.copyBufferToBuffer(buffer, offset, staging, at, Math.ceil(bytes / 4) * 4);
      gpu.device.queue.submit([encoder.finish()]);
      try {
        await staging.mapAsync(1, 0, Math.max(total, 8));
      } catch (error) {
        await Promise.race([gpu.lost, new Promise((wake) => setTimeout(wake, 200))]);
        gpu.check();
        throw error;
      }
      const mapped = new Uint8Array(staging.getMappedRange(0, Math.max(total, 8)));
      for (const [, , bytes, address, at] of copies) heap().set(mapped.subarray(at, at + bytes), address);
      staging.unmap();
      gpu.unstage(staging);
    },
  };
}
