"""Backends that run a checkpoint: one module each, named after ``conf/backend/<name>.yaml``."""
