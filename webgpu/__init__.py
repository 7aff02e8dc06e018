"""sardonyx on WebGPU: `device` (a small API of our own with two backends), `wgsl` (expressions and operands as shader text), `kernels` (one module a kernel kind),
`recording` (a planned Program as data: shaders, buffers, dispatches), `executor` (plays one) and `provider` (what a session sees).

How to think
- The same Program the C engine runs is built here into *dispatches*: a WGSL source, the memory it binds, the sizes it reads, how many workgroups it needs. Building needs no device.
- Sizes are uniforms. A new input size is one evaluation of the program's size table and one write to the uniform buffer; pipelines depend on types, ranks and tiles only,
  and all tiles that sizes may choose compile at the first run.
- On the GPU an element of an intermediate takes a whole 32-bit word, whatever its type (`wgsl/storage.py` says which types and how int64 is kept honest).
- Nothing here imports wgpu but `device/native.py`.
"""
