"""A text as a tokenizer reads it: the ids, and which bytes of what is scored each stands for.

Of a conversation the assistant's answers are scored, one after another; a model of any tokenizer
reads it by a template of its own.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanogpt.common.errors import UserError
from nanogpt.text.talks.chat import Conversation
from nanogpt.text.talks.template import open_template
from nanogpt.text.tokens import STARTS, HeldOut
from nanogpt.text.words.tokenizer import Tokenizer

SHOWN = 8  # characters in a message


class Read(NamedTuple):
    """A text as a tokenizer reads it."""

    ids: NDArray[np.uint32]  # (tokens,)
    places: NDArray[np.int64]  # (tokens, 2): bytes of its document, from one up to another
    document: NDArray[np.int64]  # that each token is of: (tokens,)
    starts: NDArray[np.int64]  # the first token of each document: (documents,)
    counted: NDArray[np.bool_] | None  # (tokens,) which have a loss; None: all
    unknown: int  # bytes that no token stands for, or only that of what is not in the vocabulary


def scored(text: HeldOut) -> HeldOut:
    """What is scored of a text: of conversations the answers alone, without blanks around them."""
    if text.conversations is None:
        return text
    said = [text.document(index) for index in range(len(text.starts))]
    for index in text.talks():
        messages = Conversation.from_json(said[index].decode()).messages
        answers = (one.content.strip() for one in messages if one.role == "assistant")
        said[index] = "".join(answers).encode()
    starts = np.cumsum([0, *map(len, said)], dtype=STARTS)[:-1]
    return replace(text, data=b"".join(said), starts=starts, conversations=None)


def read(folder: Path, encoder: Tokenizer, text: HeldOut) -> Read:
    """The ids of all documents, with what stands around each, as `tokenize` writes them.

    Raises:
        UserError: the tokenizer lacks some of the text; or the text is shorter than two tokens.
    """
    talks = {*text.talks()}
    template = open_template(folder, encoder) if talks else None
    ends = (encoder.eot, template.end if template else None)
    around = [*encoder.begin, *(end for end in ends if end is not None)]  # no part of a text
    found, unknown = [], 0
    for index in range(len(text.starts)):
        data = text.document(index)
        try:
            if template and index in talks:
                ids, counted, places, data = template.read(Conversation.from_json(data.decode()))
            else:
                ids, places = _plain(encoder, data, text.ends)
                counted = np.ones(len(ids), np.bool_)
        except UserError as error:
            lacks = "" if talks else _lacks(encoder, text)  # of JSON it would be other characters
            raise UserError(f"{folder}: {lacks or error}") from None
        own = counted & ~np.isin(ids, around)
        if encoder.unknown is not None:
            own &= ids != encoder.unknown
        stood = np.zeros(len(data) + 1, np.int64)
        np.add.at(stood, places[own, 0], 1)
        np.add.at(stood, places[own, 1], -1)
        unknown += int((np.cumsum(stood)[:-1] == 0).sum())
        found.append((ids, places, counted))
    lengths = [len(ids) for ids, _, _ in found]
    if (count := sum(lengths)) < 2:
        raise UserError(
            f"{text.name} is {count} token{'s' * (count != 1)} long, and a loss needs one token and"
            " another that follows it; take a longer text"
        )
    ids, places, counted = map(np.concatenate, zip(*found, strict=True))
    document = np.repeat(np.arange(len(found)), lengths)
    starts = np.cumsum([0, *lengths])[:-1]
    return Read(ids, places, document, starts, counted if talks else None, unknown)


def _plain(
    encoder: Tokenizer, data: bytes, ends: bool
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The ids and places of a text; what stands around it is at its first and its last byte."""
    size = len(data)
    inner, spans = encoder.spans(data.decode())
    end = [encoder.eot] if ends and encoder.eot is not None else []
    starts = np.minimum(spans[:, 0], size - 1)
    stops = np.maximum(spans[:, 1], starts + 1)  # part of a character may stand for nothing
    before, after = [0, 1] * len(encoder.begin), [size - 1, size] * len(end)
    inside = np.stack((starts, stops), axis=1).ravel()
    ids = np.concatenate((encoder.begin, inner, end)).astype(np.uint32)
    return ids, np.concatenate((before, inside, after)).astype(np.int64).reshape(-1, 2)


def _lacks(encoder: Tokenizer, text: HeldOut) -> str:
    """Which characters of a text cannot be encoded, and how many; "": each can."""
    counts = Counter(text.data.decode())
    found = lacking(encoder, (character for character, _ in counts.most_common()))
    if not found:
        return ""
    number = sum(counts[character] for character in found)
    shown = ", ".join(map(repr, found[:SHOWN])) + (", ..." if len(found) > SHOWN else "")
    return (
        f"its tokenizer does not know {number:,} of {counts.total():,} characters of {text.name}"
        f" ({shown}), so they have no loss; take a text that it knows, or another model"
    )


def lacking(encoder: Tokenizer, characters: Iterable[str]) -> list[str]:
    """Those of some characters that a tokenizer refuses."""
    found = []
    for character in characters:
        try:
            encoder.encode_array(character)
        except UserError:
            found.append(character)
    return found
