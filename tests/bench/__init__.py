"""Benchmarks beside peers: `python -m tests.bench`."""
