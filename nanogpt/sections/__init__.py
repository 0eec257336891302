"""The sections of settings: which keys there are, and what each may be."""
