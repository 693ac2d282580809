"""Export formats, one module per runtime."""
