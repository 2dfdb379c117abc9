"""What `benchmark.py` measures and how: set-up, parts, time, memory and arithmetic, the table."""
