"""Comparison of two models on the frames of one recording."""
