"""Hyperparameter search: search space, study, trial runner and summary."""
