"""Where results go: a log, a video, a summary, a window."""
