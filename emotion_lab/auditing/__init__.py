"""A look at the data before anyone trains: counts, duplicates, bad images, doubtful labels."""
