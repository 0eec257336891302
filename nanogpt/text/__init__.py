"""Text ↔ token files."""
