"""`make bench`: this project measured on this machine, beside nanoGPT."""
