"""Texts by a model: many at once, each as it would be alone."""
