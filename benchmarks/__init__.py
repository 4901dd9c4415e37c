"""Benchmarks: figures for people to read, nothing that passes or fails."""
