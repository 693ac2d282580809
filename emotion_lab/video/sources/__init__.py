"""Frame sources: cameras, network streams, video files and images."""
