"""Drawing of boxes, labels, probability bars and timelines."""
