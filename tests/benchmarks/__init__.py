"""Ratios of two things measured in turns in one run. Not tests; `make bench` writes `docs/benchmarks.md`."""
