"""Conversion of a network to a file that runs without this package."""
