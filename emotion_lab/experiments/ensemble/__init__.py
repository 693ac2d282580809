"""Ensembles of runs: candidates, selection and checkpoint."""
