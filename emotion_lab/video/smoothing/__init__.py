"""Temporal smoothers of class probabilities, one file each."""
