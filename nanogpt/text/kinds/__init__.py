"""The kinds of files that documents come in, one a module: what is in a piece of such a file."""
