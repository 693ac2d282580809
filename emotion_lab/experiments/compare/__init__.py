"""Paired comparison of two runs or two groups of runs on the same images."""
