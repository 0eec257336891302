"""The one exception that is meant to be read by the person who typed the command."""


class UserError(Exception):
    """What is wrong, where, and what to do, in one message; a stage prints it and exits with 2."""
