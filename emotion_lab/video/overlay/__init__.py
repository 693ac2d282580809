"""Drawing of boxes, labels and timelines."""
