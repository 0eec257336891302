"""A model that answers."""
