"""Whether a version was trained on the text that it is scored on now.

    advantage(client, "nanogpt-plays", "3", text)   # "was trained on 12 of 16 passages of ..."

A corpus that grows is split anew, so a champion may have been trained on what is held out today.
"""

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

from nanogpt.common.errors import UserError
from nanogpt.common.place import root
from nanogpt.scoring.seen import seen
from nanogpt.text.tokens import HeldOut, Tokens, open_tokens

if TYPE_CHECKING:
    from mlflow import MlflowClient

TEXT = "eval_text_sha256"  # tag of a version: the held-out text that its own score is of
TOKENS = "tokens_sha256"  # tag of a version: what it was trained on


def advantage(client: "MlflowClient", name: str, version: str, text: HeldOut) -> str:
    """What makes a version's score on a text better than it should be, as a clause; "": nothing.

    Raises:
        Exception: MLflow does not answer.
    """
    tags = client.get_model_version(name, version).tags
    if tags.get(TEXT) == text.digest:  # it was held out from it, too
        return ""
    tokens = _tokens(tags.get(TOKENS, ""))
    found = seen(text, tokens) if tokens else None
    if not found or not found.looked:
        return "was not evaluated on this text before, and may have been trained on some of it"
    if not found.found:
        return ""
    share = f"{found.found} of {found.looked} passages of this text"
    return f"was trained on {share}, so its score is better than it should be"


def _tokens(digest: str) -> Tokens | None:
    """The tokens of any recipe that have a digest, if they are here."""
    for manifest in sorted((root() / "data").glob("*/tokens/manifest.json")):
        if hashlib.sha256(manifest.read_bytes()).hexdigest() == digest:
            with suppress(UserError):
                return open_tokens(manifest.parent)
    return None
