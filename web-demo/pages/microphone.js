// microphone.js: an audio worklet that hands over samples in chunks of 512.
registerProcessor("chunks", class extends AudioWorkletProcessor {
  #chunk = new Float32Array(512);
  #fill = 0;

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.#chunk[this.#fill++] = sample;
      if (this.#fill === 512) {
        this.port.postMessage(this.#chunk.slice());
        this.#fill = 0;
      }
    }
    return true;
  }
});
