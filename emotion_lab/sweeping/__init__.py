"""Sweeps: each job a process of its own, a folder that can be gone on with, and a summary."""
