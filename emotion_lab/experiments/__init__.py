"""Work over many runs: sweeps, tuning, comparison, ensembles, cross-validation, reproduction."""
