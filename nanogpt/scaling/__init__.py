"""Scaling laws: fitted to small trainings of a recipe, and what they promise of large ones."""
