"""Export of a checkpoint with a parity certificate."""
