"""From a checkpoint to the fastest runtime at hand."""
