"""Benchmark of the live pipeline, in parts that are saved one by one."""
