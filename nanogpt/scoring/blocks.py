"""The loss of a model on a text, by blocks of its bytes: a measure that no tokenizer decides.

    text = open_tokens(folder).text("test")     # or HeldOut.of("a.txt", text)
    scores = score(Path("data/shakespeare/model"), text, context, world)
    scores.nats / scores.bytes                  # (blocks,)

A block is so many bytes of one document. The loss of each token is shared out among the bytes that
it stands for; that of what begins a document belongs to its first byte, of what ends it to its
last. So two models of different tokenizers can be compared block by block.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nanogpt.common.errors import UserError
from nanogpt.common.progress import bar
from nanogpt.evaluation import measures, total_loss, window_total
from nanogpt.formats.weights import load_model
from nanogpt.machine.distributed import World
from nanogpt.text import tokenizer
from nanogpt.text.tokenizer import Tokenizer
from nanogpt.text.tokens import HeldOut

BLOCK = 512  # bytes
SHOWN = 8  # characters in a message


@dataclass(frozen=True)
class Scores:
    """What a text costs a model."""

    nats: NDArray[np.float64]  # of each block: (blocks,)
    bytes: NDArray[np.int64]  # of each block: (blocks,); the last of a document may be shorter
    document: NDArray[np.int64]  # that each block is of: (blocks,), from 0, in order
    total: float  # nats of all tokens, as `total_loss` sums them
    count: int  # tokens with a loss: all but the first
    tokens: int
    context: int  # tokens in a window
    skipped: int  # bytes of the text that the first token stands for, which have no loss
    unknown: int  # bytes that no token stands for, or only that of what is not in the vocabulary

    def figures(self) -> dict[str, float | int]:
        """Loss, perplexity, bits per byte and tokens: `evaluation.measures`."""
        return measures(self.total, self.count, self.tokens, int(self.bytes.sum()))


def score(folder: Path, text: HeldOut, context: int, world: World, block: int = BLOCK) -> Scores:
    """Score the model in `folder` on a text, in windows of `context` tokens or of its own fewer.

    All processes of `world` must call this, and all get the scores.

    Args:
        context: that the model was trained in; a config.json may promise more.
        block: bytes.

    Raises:
        UserError: no model is in the folder, or it is damaged; its tokenizer lacks characters of
            the text; or the text is shorter than two tokens.
    """
    encoder = tokenizer.load(folder)
    read = _read(folder, encoder, text)
    _check_ids(folder, text, read.ids)
    model = load_model(folder, world.device, world.compute)
    if encoder.vocab_size > model.config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has ids up to {encoder.vocab_size - 1:,}, and the model only"
            f" {model.config.vocab_size:,} rows: they do not belong together"
        )
    context = min(context, model.config.context)
    nats = np.zeros(len(read.ids))

    def hear(places: NDArray[np.int64], losses: NDArray[np.float64]) -> None:
        nats[places] = losses

    with bar(window_total(read.ids, context), f"score {text.name}", "window") as progress:
        total, count = total_loss(model, read.ids, context, world, progress.update, hear)
    if world.size > 1:  # each has scored some
        nats = world.sum(torch.from_numpy(nats).to(world.device)).cpu().numpy()
    sizes = np.diff([*text.starts, len(text.data)])
    blocks = -(-sizes // block)  # of each document
    first = np.cumsum(blocks) - blocks
    document = np.repeat(np.arange(len(sizes)), blocks)
    begins = (np.arange(len(document)) - first[document]) * block
    return Scores(
        nats=_share_out(nats, read.places, first[read.document], block, len(document)),
        bytes=np.minimum(block, sizes[document] - begins),
        document=document,
        total=total,
        count=count,
        tokens=len(read.ids),
        context=context,
        skipped=0 if encoder.begin else int(np.diff(read.places[0])[0]),
        unknown=read.unknown,
    )


class _Read(NamedTuple):
    """A text as a tokenizer reads it."""

    ids: NDArray[np.uint32]  # (tokens,)
    places: NDArray[np.int64]  # (tokens, 2): bytes of its document, from one up to another
    document: NDArray[np.int64]  # that each token is of: (tokens,)
    unknown: int  # bytes


def _read(folder: Path, encoder: Tokenizer, text: HeldOut) -> _Read:
    """The ids of all documents, with what stands around each, as `tokenize` writes them."""
    end = [encoder.eot] if text.ends and encoder.eot is not None else []
    ids: list[NDArray[np.uint32]] = []
    places: list[NDArray[np.int64]] = []
    unknown = 0
    for index in range(len(text.starts)):
        data = text.document(index)
        size = len(data)
        try:
            inner, spans = encoder.spans(data.decode())
        except UserError as error:
            raise UserError(f"{folder}: {_lacks(encoder, text) or error}") from None
        starts = np.minimum(spans[:, 0], size - 1)
        stops = np.maximum(spans[:, 1], starts + 1)  # part of a character may stand for nothing
        stood = np.zeros(size + 1, np.int64)
        known = inner != encoder.unknown if encoder.unknown is not None else slice(None)
        np.add.at(stood, starts[known], 1)
        np.add.at(stood, stops[known], -1)
        unknown += int((np.cumsum(stood)[:-1] == 0).sum())
        ids.append(np.concatenate((encoder.begin, inner, end)).astype(np.uint32))
        before, after = [0, 1] * len(encoder.begin), [size - 1, size] * len(end)
        inside = np.stack((starts, stops), axis=1).ravel()
        places.append(np.concatenate((before, inside, after)).astype(np.int64).reshape(-1, 2))
    if (count := sum(map(len, ids))) < 2:
        raise UserError(
            f"{text.name} is {count} token{'s' * (count != 1)} long, and a loss needs one token and"
            " another that follows it; take a longer text"
        )
    document = np.repeat(np.arange(len(ids)), [len(some) for some in ids])
    return _Read(np.concatenate(ids), np.concatenate(places), document, unknown)


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


def _check_ids(folder: Path, text: HeldOut, ids: NDArray[np.uint32]) -> None:
    """Where tokens of this very tokenizer are there, the model was trained on ids like those."""
    if text.tokens is None or text.split is None:
        return
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    if digest != text.tokens.manifest.tokenizer_sha256:
        return
    if not np.array_equal(ids, text.tokens.split(text.split)):
        raise UserError(
            f"{text.tokens.folder}: {text.split}.bin does not hold the ids that its tokenizer makes"
            " of its text now; run the tokenize stage again"
        )


def _share_out(
    nats: NDArray[np.float64],
    places: NDArray[np.int64],
    first: NDArray[np.int64],
    block: int,
    blocks: int,
) -> NDArray[np.float64]:
    """Losses of tokens to those of blocks, each in equal parts to the bytes that it stands for.

    Args:
        nats: (tokens,). places: (tokens, 2), bytes of a document. first: the first block of each
            token's document: (tokens,). block: bytes. blocks: of all documents.
    """
    starts, stops = places.T
    low, high = starts // block, (stops - 1) // block
    counts = high - low + 1  # blocks that a token is in
    token = np.repeat(np.arange(len(nats)), counts)
    own = low[token] + np.arange(len(token)) - np.repeat(np.cumsum(counts) - counts, counts)
    common = np.minimum(stops[token], (own + 1) * block) - np.maximum(starts[token], own * block)
    parts = nats[token] * common / (stops - starts)[token]
    shared = np.zeros(blocks)
    np.add.at(shared, first[token] + own, parts)
    return shared
