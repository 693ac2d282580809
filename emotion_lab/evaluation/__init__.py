"""Metrics, statistics, calibration, robustness and the test ledger."""
