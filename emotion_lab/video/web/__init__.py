"""Local web UI."""
