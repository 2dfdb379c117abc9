"""What `benchmark.py` measures and how; see the README."""
