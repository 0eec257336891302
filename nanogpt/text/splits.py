"""Which part of a corpus is train, val or test, and whether that is what was meant."""

from collections.abc import Mapping
from decimal import Decimal
from math import ceil

import numpy as np
from numpy.typing import NDArray

from nanogpt.common.errors import UserError
from nanogpt.settings import Tokenize
from nanogpt.text.survey import warn
from nanogpt.text.tokens import SPLITS, Name, Split

JOIN = "join them into one file, which is cut by its length"
FAR = 2  # times more or less than what was asked for


def split_text(text: str, settings: Tokenize) -> tuple[str, str, str]:
    """One document by position: train, then val, then test; nanoGPT's cut where test is 0."""
    # decimals, as they stand in the file: in floats 1 - 0.05 - 0.05 is less than 0.9
    val, test = Decimal(repr(settings.val)), Decimal(repr(settings.test))
    first, second = (int(len(text) * share) for share in (1 - val - test, 1 - test))
    parts = text[:first], text[first:second], text[second:]
    if not parts[0] or not parts[1] or (test and not parts[2]):
        raise UserError(
            f"the corpus has {len(text)} characters, too few for tokenize.val {val} and"
            f" tokenize.test {test}; bring more text"
        )
    return parts


def split_documents(count: int, settings: Tokenize) -> NDArray[np.uint8]:
    """Where each document goes, as an index of SPLITS: (count,), decided by the seed alone."""
    val, test = (ceil(Decimal(repr(share)) * count) for share in (settings.val, settings.test))
    if val + test >= count:
        few = count < (3 if test else 2)  # each split takes one at the least, whatever its share
        raise UserError(
            f"the corpus has {count} documents, of which val takes {val} and test {test}, so none"
            " is left to train on; bring more, or "
            + (f"{JOIN}, or set tokenize.test to 0" if few else "lower tokenize.val and .test")
        )
    labels = np.repeat(np.arange(3, dtype=np.uint8), (count - val - test, val, test))
    return np.random.Generator(np.random.PCG64(settings.seed)).permutation(labels)


def check_shares(splits: Mapping[Name, Split], settings: Tokenize) -> None:
    """Warn where whole documents make a split much longer or shorter than it should be."""
    total = sum(split.bytes for split in splits.values())
    documents = sum(split.documents for split in splits.values())
    asked = {"train": 1 - settings.val - settings.test, "val": settings.val, "test": settings.test}
    far = []
    for name, split in splits.items():
        has, wanted = split.bytes / total, asked[name]
        if wanted and not wanted / FAR <= has <= wanted * FAR:
            far.append(f"{name} has {has:.1%} of the text and not about {wanted:.1%}")
    if far:
        warn(
            f"{', '.join(far)}: documents are not cut, and {documents:,} of these lengths do not"
            f" divide better; bring more, or {JOIN}"
        )


def check_copies(digests: Mapping[Name, NDArray[np.uint64]]) -> None:
    """Warn of held-out documents that a model sees in training, and of others that repeat.

    Args:
        digests: of the texts of each split: (documents,) uint64.
    """
    for name in SPLITS[1:]:
        copies = int(np.isin(digests[name], digests["train"]).sum())
        if copies:
            warn(
                f"{copies:,} of {len(digests[name]):,} documents of {name} are in train too, word"
                " for word, so its score is better than it should be; take out what repeats"
            )
    everything = np.concatenate(list(digests.values()))
    if again := len(everything) - len(np.unique(everything)):
        warn(f"{again:,} of {len(everything):,} documents repeat another one, word for word")
