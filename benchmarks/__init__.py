"""Runnable measurements: `python -m benchmarks.<name>` prints a table, then a line of JSON."""
