"""Decides nothing: commands, files, manifests, progress, errors, and where the repository is."""
