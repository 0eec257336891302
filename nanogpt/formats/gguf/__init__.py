"""Models in GGUF, llama.cpp's format."""
