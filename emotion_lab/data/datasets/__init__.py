"""Registered datasets, one module each."""
