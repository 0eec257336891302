"""Whether a text is part of what a model was trained on: passages of it are looked for.

    found = seen(text, tokens)          # Seen(found=0, looked=16)

A passage that stands in a training split word for word is there as the same ids, but for its first
and last few, which depend on what is around it.
"""

import mmap
from typing import NamedTuple

import numpy as np

from nanogpt.common.errors import UserError
from nanogpt.text.talks.chat import Conversation
from nanogpt.text.tokens import DTYPES, HeldOut, Tokens
from nanogpt.text.words.tokenizer import Tokenizer, load

PASSAGES = 16
LENGTH = 120  # bytes of a passage, or half as many of a short document
MARGIN = 60  # bytes on either side, which are encoded with it
LARGEST = 1 << 31  # bytes of ids that are looked through


class Seen(NamedTuple):
    """Of the passages that were looked for, those that are in a training split."""

    found: int
    looked: int  # 0: the split is too large, or the text too short


def seen(text: HeldOut, tokens: Tokens) -> Seen:
    """Look for passages of a text in the split train."""
    path = tokens.folder / "train.bin"
    if path.stat().st_size > LARGEST:
        return Seen(0, 0)
    text = _messages(text)
    encoder, dtype = load(tokens.folder), DTYPES[tokens.manifest.dtype]
    cut = {_passage(text, int(place)) for place in np.linspace(0, len(text.data) - 1, PASSAGES)}
    wanted = [place for place in cut if place is not None]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as ids:
        found = sum(
            (some := _encode(text, encoder, *place)) is not None
            and _holds(ids, some.astype(dtype).tobytes(), dtype.itemsize)
            for place in wanted
        )
    return Seen(found, len(wanted))


def _messages(text: HeldOut) -> HeldOut:
    """Each message of a conversation as a document: what is around it depends on the template."""
    talks, found = {*text.talks()}, []
    for index in range(len(text.starts)):
        document = text.document(index).decode()
        if index in talks:
            found += [message.content for message in Conversation.from_json(document).messages]
        else:
            found.append(document)
    return HeldOut.of(text.name, *found) if talks else text


def _passage(text: HeldOut, place: int) -> tuple[int, int, int] | None:
    """The document at a byte of the text, and a part of it, from a byte up to another, thereabouts.

    None: the document is so short that others may have the same words.
    """
    index = int(np.searchsorted(text.starts, place, side="right")) - 1
    size = len(text.document(index))
    length, margin = min(LENGTH, size // 2), min(MARGIN, size // 4)
    start = min(max(place - int(text.starts[index]), margin), size - length - margin)
    return (index, start, start + length) if length >= LENGTH // 2 else None


def _encode(
    text: HeldOut, encoder: Tokenizer, index: int, start: int, stop: int
) -> np.ndarray | None:
    """The ids of a part of a document, as they are in the middle of it; None: it has none."""
    data, first = text.document(index), max(0, start - MARGIN)
    while first and data[first] & 0xC0 == 0x80:  # not inside a character
        first -= 1
    try:
        ids, spans = encoder.spans(data[first : stop + MARGIN].decode("utf-8", "ignore"))
    except UserError:
        return None
    inside = (spans[:, 0] >= start - first) & (spans[:, 1] <= stop - first)
    return ids[inside] if inside.any() else None


def _holds(ids: mmap.mmap, wanted: bytes, size: int) -> bool:
    """Whether ids of so many bytes each stand in a row."""
    place = ids.find(wanted)
    while place >= 0 and place % size:
        place = ids.find(wanted, place + 1)
    return place >= 0
