"""nanogpt: plain functions over plain data that train, score and sample a small GPT."""
