"""Live pipeline: sources, detectors, tracking, smoothing, overlay, sinks and web UI."""
