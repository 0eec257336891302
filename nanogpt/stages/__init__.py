"""What DVC runs: `python -m nanogpt.stages.<name> <params.yaml>`, settings → one call → files."""

import signal
import sys

from nanogpt.common.command import one_line
from nanogpt.common.ready import check_system

with one_line("nanogpt"):
    check_system()

if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # a stage starts, and its imports take their time: Ctrl-C shows no traceback of them
    signal.signal(signal.SIGINT, signal.SIG_DFL)
