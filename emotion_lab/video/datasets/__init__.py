"""Datasets that are read with the face detectors."""
