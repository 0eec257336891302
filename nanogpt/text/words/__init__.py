"""Vocabularies: text ↔ ids, whoever made them, and at which places a text may be cut."""
