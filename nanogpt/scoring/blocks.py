"""The loss of a model on a text, by blocks of its bytes: a measure that no tokenizer decides.

    text = open_tokens(folder).text("test")     # or HeldOut.of("a.txt", text)
    scores = score(Path("data/shakespeare/model"), text, context, world)
    scores.nats / scores.bytes                  # (blocks,)

A block is so many bytes of one document. The loss of each token is shared out among the bytes that
it stands for; that of what begins a document belongs to its first byte, of what ends it to its
last. So two models of different tokenizers can be compared block by block.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nanogpt.batches import Text, borders
from nanogpt.common.errors import UserError
from nanogpt.common.progress import bar
from nanogpt.evaluation import measures, total_loss, window_total
from nanogpt.formats.weights import load_model
from nanogpt.machine.distributed import World
from nanogpt.scoring.reading import read, scored
from nanogpt.text.tokens import HeldOut
from nanogpt.text.words import tokenizer

BLOCK = 512  # bytes


@dataclass(frozen=True)
class Scores:
    """What a text costs a model."""

    nats: NDArray[np.float64]  # of each block: (blocks,)
    bytes: NDArray[np.int64]  # of each block: (blocks,); the last of a document may be shorter
    document: NDArray[np.int64]  # that each block is of: (blocks,), from 0, in order
    total: float  # nats of all tokens, as `total_loss` sums them
    count: int  # tokens with a loss: all that count but, if it does, the first
    tokens: int  # that count
    context: int  # tokens in a window
    skipped: int  # bytes of the text that the first token stands for, which have no loss
    unknown: int  # bytes that no token stands for, or only that of what is not in the vocabulary

    def by_part(self, documents: Sequence[int]) -> NDArray[np.float64]:
        """Bits per byte of each part of the text, of so many documents: (parts,); NaN of none.

        The first token, where it has no loss, costs what others do, as in `figures`.
        """
        part = np.searchsorted(np.cumsum(documents), self.document, side="right")
        nats, sizes = (np.bincount(part, of, len(documents)) for of in (self.nats, self.bytes))
        nats[part[0]] += (self.tokens - self.count) * self.total / self.count
        sizes[sizes == 0] = math.nan
        bits: NDArray[np.float64] = nats / sizes / math.log(2)
        return bits

    def figures(self) -> dict[str, float | int]:
        """Loss, perplexity, bits per byte and tokens: `evaluation.measures`."""
        return measures(self.total, self.count, self.tokens, int(self.bytes.sum()))


def score(
    folder: Path,
    text: HeldOut,
    context: int,
    world: World,
    block: int = BLOCK,
    apart: bool = False,
) -> Scores:
    """Score the model in `folder` on a text, in windows of `context` tokens or of its own fewer.

    Of conversations the assistant's answers are scored, each conversation from its start.

    All processes of `world` must call this, and all get the scores.

    Args:
        context: that the model was trained in; a config.json may promise more.
        block: bytes.
        apart: whether no document sees another, as in a training with packing: documents.

    Raises:
        UserError: no model is in the folder, or it is damaged; its tokenizer lacks characters of
            the text; or the text is shorter than two tokens.
    """
    encoder = tokenizer.load(folder)
    ids, places, document, starts, counted, unknown = read(folder, encoder, text)
    _check_ids(folder, text, ids)
    model = load_model(folder, world.device, world.compute)
    if encoder.vocab_size > model.config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has ids up to {encoder.vocab_size - 1:,}, and the model only"
            f" {model.config.vocab_size:,} rows: they do not belong together"
        )
    context = min(context, model.config.context)
    nats = np.zeros(len(ids))

    def hear(places: NDArray[np.int64], losses: NDArray[np.float64]) -> None:
        nats[places] = losses

    borders_of, given = None, starts[:1]  # the tokens that are not predicted
    if apart or counted is not None:
        borders_of = borders(ids, starts, None if encoder.begin else encoder.eot)
        talks = [*text.talks()]
        borders_of[talks, 0] = starts[talks]  # a template has all that begins one
        given = starts[(borders_of[:, 0] == starts) & (starts < len(ids))]  # the last may have none
    cut = Text(ids, counted, borders_of)
    with bar(window_total(cut, context), f"score {text.name}", "window") as progress:
        total, count = total_loss(model, cut, context, world, progress.update, hear)
    if not count:
        raise UserError(f"{text.name} has no document of two tokens; take a longer text")
    if world.size > 1:  # each has scored some
        nats = world.sum(torch.from_numpy(nats).to(world.device)).cpu().numpy()
    if counted is None and not encoder.begin:  # a first letter costs what others do
        nats[given[1:]] = total / count
    text = scored(text)
    sizes = np.diff([*text.starts, len(text.data)])
    blocks = -(-sizes // block)  # of each document
    first = np.cumsum(blocks) - blocks
    of = np.repeat(np.arange(len(sizes)), blocks)
    begins = (np.arange(len(of)) - first[of]) * block
    own = slice(None) if counted is None else counted
    # what begins a document stands for nothing, and where it is given it costs nothing
    free = len(given) if counted is None else int(counted[given].sum())
    unseen = 0 if encoder.begin or counted is not None else int(np.diff(places[0])[0])
    return Scores(
        nats=_share_out(nats[own], places[own], first[document[own]], block, len(of)),
        bytes=np.minimum(block, sizes[of] - begins),
        document=of,
        total=total,
        count=count,
        tokens=len(nats[own]) - (max(0, free - 1) if encoder.begin else 0),
        context=context,
        skipped=unseen,
        unknown=unknown,
    )


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
