"""Outputs of the pipeline: log, video, summary, window, console."""
