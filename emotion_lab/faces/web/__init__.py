"""A small local page: the stream, what is known of each face, and the user's own camera."""
