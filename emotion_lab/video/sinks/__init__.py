"""Sinks: log, summary, video, images, console and window."""
