"""A recipe: read, checked before a model is opened, and frozen."""
