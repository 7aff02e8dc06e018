"""The C engine: kernels, loader and threads (src/), their build (build.py) and the ctypes binding (binding.py)."""
