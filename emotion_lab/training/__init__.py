"""LightningModule, Trainer setup, callbacks and loggers."""
