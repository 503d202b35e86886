"""A model as one directory: configuration, weights, model card, hub."""
