"""Reader and on-disk cache of the FER2013 CSV."""
