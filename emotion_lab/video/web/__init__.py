"""Local web page of the live pipeline."""
