"""A model on disk: Hugging Face's form, GGUF, and the base that `download` brought."""
