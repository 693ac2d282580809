"""Deployment benchmark: latency, accuracy and size of every backend."""
