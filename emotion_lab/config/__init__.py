"""Config schema, composition and overrides."""
