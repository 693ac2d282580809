"""How every command starts: one-line errors, exit codes, help and preflight checks."""
