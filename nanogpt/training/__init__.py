"""Around the loop: where a training starts, its saves, its journal, what it publishes."""
