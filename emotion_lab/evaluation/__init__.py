"""Scores, plots and the test ledger: everything that reads a checkpoint to judge it."""
