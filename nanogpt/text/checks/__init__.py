"""What a text is and what is lost of it: counted, told, and held against what was expected."""
