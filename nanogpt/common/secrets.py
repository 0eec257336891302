"""Passwords and tokens in addresses: how one is shown, and how one is recognised."""

import re

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
