"""How a `config.json` of Hugging Face says the shape of a model."""
