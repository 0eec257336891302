"""`python -m nanogpt.commands`: the command of the code in the current folder."""

from nanogpt.commands import main

main()
