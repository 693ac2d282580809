"""Ranking of many runs on the same validation images."""
