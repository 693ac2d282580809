"""Search for good settings: what is searched, a durable study of trials, and what it found."""
