"""Prediction of many photos and clips: list of files, worker processes, one table of results."""
