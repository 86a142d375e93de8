"""What is measured, against what. Results with their machine lie in ``benchmarks/results``."""
