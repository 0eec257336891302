"""How a corpus becomes token files: in chunks, read twice, in any number of processes."""
