"""Data audit: counts, duplicates, image issues and label issues."""
