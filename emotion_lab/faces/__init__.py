"""From a camera, clip or photo to faces with emotions."""
