"""Frame sources: cameras, video files, images and streams."""
