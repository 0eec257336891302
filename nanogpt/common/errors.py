"""The exceptions that are meant to be read by the person who typed the command."""


class UserError(Exception):
    """What is wrong, where, and what to do, in one message; a stage prints it and exits with 2."""


class NotNow(UserError):
    """Nothing is wrong with what was asked, and another attempt may go better; exits with 75."""


class Stopped(Exception):
    """A signal stopped the work after it was saved; a stage exits with 128 and its number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class Told(KeyboardInterrupt):
    """A signal other than Ctrl-C's ended the work where it was, just as Ctrl-C does."""

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal
