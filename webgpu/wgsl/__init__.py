"""Shader text: `functions` (the functions shaders may call), `storage` (how element types lie in memory), `expression` (an expression of core/expr.py as statements, with the interval
of every integer), `space` (iteration spaces and views), `shader` (a module being written)."""
