"""What DVC runs: `python -m nanogpt.stages.<name> <params.yaml>`, settings → one call → files."""

from nanogpt.common.command import one_line
from nanogpt.common.ready import check_system

with one_line("nanogpt"):
    check_system()
