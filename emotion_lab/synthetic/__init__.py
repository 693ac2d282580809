"""Parametric synthetic faces and videos with known labels."""
