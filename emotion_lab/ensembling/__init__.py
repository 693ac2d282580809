"""Ensembles built from runs: who takes part, with what weight, in one file."""
