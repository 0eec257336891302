"""MLflow: runs, the outbox, the registry. No other room imports it."""
