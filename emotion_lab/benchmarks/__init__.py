"""Speed benchmarks of ``python -m emotion_lab.bench``."""
