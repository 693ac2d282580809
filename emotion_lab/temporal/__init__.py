"""Models over time: from the outputs of a network of single images to those of a track."""
