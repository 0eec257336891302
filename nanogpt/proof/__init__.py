"""What proves to somebody else where a model comes from: a signed statement beside its files."""
