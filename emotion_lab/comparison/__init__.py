"""Two models, or two ways of training, on the same images: reads saved predictions, no network."""
