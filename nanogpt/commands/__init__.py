"""What a person types: `nanogpt <command>`, which the make targets are shortcuts of.

    nanogpt --help
    python -m nanogpt.commands --help           # the same, of the current folder's own code

The command of one checkout, typed in another, runs the other's code. Each command imports what it
needs when it runs, so that `--help` answers at once.
"""
