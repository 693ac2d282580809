"""Pooled out-of-fold scores of a cross-validation."""
