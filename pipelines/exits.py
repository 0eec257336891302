"""`dvc …` in this process, which ends with the exit code of the stage that failed.

    code = dvc_and_code(["repro", "dvc.yaml"])
    python -P pipelines/exits.py repro dvc.yaml      # in another environment, and another's code

It knows nothing of this project, so that it also runs beside the code of an earlier commit.
"""

import logging
import re
import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of the imports, which take time

from dvc.cli import main as dvc
from dvc.stage.exceptions import StageCmdFailedError

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Failure(logging.Filter):
    """Keeps a stage's exit code, and holds back DVC's line where the stage has said why it ended.

    A code below 0 is the signal that ended the stage, or DVC itself, without a word.
    """

    code = 0

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info and record.exc_info[1]
        if isinstance(error, KeyboardInterrupt):
            self.code = -signal.SIGINT
        while error and not isinstance(error, StageCmdFailedError):
            error = error.__cause__
        if error and (found := re.search(r"exited with (-?\d+)$", str(error))):
            self.code = int(found[1])
            if self.code > 128 and self.code - 128 not in STOPS:
                self.code = 128 - self.code  # as a shell says it, of a stage without `exec`
        return self.code == 0 or (self.code < 0 and -self.code not in STOPS)


def dvc_and_code(words: list[str]) -> int:
    """Run DVC; returns the exit code of the stage that failed, or its own.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; all of it has ended since.
    """
    failure = _Failure()
    for handler in logging.getLogger("dvc").handlers:
        handler.addFilter(failure)
    code = int(dvc(words))
    if -failure.code in STOPS:
        print("stopped; run the same command to go on", file=sys.stderr)
    if failure.code in (-signal.SIGINT, 128 + signal.SIGINT):
        raise KeyboardInterrupt
    if failure.code:
        return failure.code if failure.code > 0 else 128 - failure.code
    return code


def main() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(dvc_and_code(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
