"""What is nobody else's: passwords and tokens in addresses, and where one's own files lie."""

import re
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

# what stands before the last @ of a host; a password may hold : @ and, by mistake, / ? # too
USER = re.compile(r"(?<=://)(?:[^\s/?#'\"]*|[^\s/:@?#'\"]*:(?!\d+(?:[/?#]|$))[^\s'\"]*)@")
QUERY = re.compile(r"(://[^\s?#'\"]*)[?#][^\s'\"),]*")
TOKEN = re.compile(r"[?&][^=&#]*(key|token|sig|secret|passw|pwd|credential|auth)[^=&#]*=", re.I)


def public(text: str) -> str:
    """`text` with the credentials taken out of every address in it: user, password and query."""
    return QUERY.sub(r"\1", USER.sub("", text))


def holds_secret(address: str) -> bool:
    """Whether an address names a user with a password, or has a token in its query."""
    user = USER.search(address)
    named = user and (":" in user[0] or address.startswith("http"))
    return "://" in address and bool(named or TOKEN.search(address))


def without_folder(name: str) -> str:
    """A name in the settings; of a file of one's own elsewhere without the folder it lies in."""
    path = Path(public(name).removeprefix("file:"))
    if "://" in name and not name.startswith("file:"):
        return public(name)
    outside = path.is_absolute() or name.startswith(("~", "file:")) or ".." in path.parts
    return path.name if outside else public(name)


def hide_in_tracebacks() -> None:
    """Have Python show an error that nobody foresaw without the credentials in its addresses."""

    def show(kind: Any, error: Any, trace: Any) -> None:
        print(public("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr)

    def show_in_thread(args: threading.ExceptHookArgs) -> None:
        show(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook, threading.excepthook = show, show_in_thread
