"""Datasets, splits, transforms, samplers and loaders."""
