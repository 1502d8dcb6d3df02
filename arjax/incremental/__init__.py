"""Cached samplers derived from the parallel pass."""
