"""What DVC runs: `python -m nanogpt.stages.<name> <params.yaml>`, settings → one call → files."""
