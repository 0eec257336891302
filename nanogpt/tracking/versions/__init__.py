"""Models in the registry: how they come there, and what is known of them."""
