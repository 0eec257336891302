"""Bytes from outside, verified: corpora, vocabularies, base models."""
