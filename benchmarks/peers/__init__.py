"""This service beside others that answer the same slices, in one run: ``python -m benchmarks.peers``."""
