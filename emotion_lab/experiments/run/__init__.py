"""One training or evaluation run, as the commands train and evaluate start it."""
