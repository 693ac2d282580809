"""Inference backends, face crops and automatic backend selection."""
