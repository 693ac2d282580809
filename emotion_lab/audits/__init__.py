"""Data audit: class counts, duplicates, image issues and label issues."""
