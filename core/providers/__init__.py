"""Execution providers: what can run a graph. `base` is the interface, one module a provider."""
