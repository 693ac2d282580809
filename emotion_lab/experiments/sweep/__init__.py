"""Grid sweeps: one subprocess per job, a resumable directory and a summary."""
