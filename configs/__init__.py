"""The YAML a user edits, and `configs.schema`, which validates it."""
