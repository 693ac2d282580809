"""Exported files: a checkpoint in a form that runs without this program, and proof that it does."""
