"""Which part of a corpus is train, val or test, and whether that is what was meant.

    where = decide(documents, settings.tokenize)

A hash of the seed and the text says where a document goes. So it stays there when the corpus grows,
and copies of a text meet in one split, of which the first alone is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from nanogpt.common.errors import UserError
from nanogpt.settings import Tokenize
from nanogpt.text.checks.survey import warn
from nanogpt.text.tokens import SPLITS, Name, Split
from nanogpt.text.writing import near
from nanogpt.text.writing.first import Facts

LEFT_OUT, CUT = 3, 4  # beside the indices of SPLITS: a document that is in none, or in all
MANY = 1000  # documents from which on each goes where its hash says, whatever the others are
FEW = 50  # documents up to which they are cut, where whole ones are far from what was asked for
FAR = 2  # times more or less than what was asked for
SHORT = 0.1  # of the mean length: a document that is shorter is not cut

Cuts = tuple[int, int, int]  # the characters at which what each split has of a document ends


@dataclass
class Where:
    """Where each document goes."""

    labels: NDArray[np.uint8]  # (documents,) an index of SPLITS, LEFT_OUT or CUT
    cuts: dict[int, Cuts]  # of a CUT one
    copies: int = 0  # left out: documents that repeat an earlier one
    near: int | None = None  # documents that are almost an earlier one; None: nobody looked

    def __iadd__(self, later: "Where") -> "Where":
        first = len(self.labels)
        self.labels = np.concatenate((self.labels, later.labels))
        self.cuts |= {first + document: cut for document, cut in later.cuts.items()}
        return self


def decide(parts: list[Facts], settings: Tokenize, cuttable: list[bool]) -> Where:
    """Where the documents of each corpus of a recipe go; each corpus is divided by itself.

    Args:
        cuttable: whether the documents of each may be cut, as conversations may not.

    Raises:
        UserError: there is too little text, or more than can be searched for near copies.
    """
    every = Facts.joined(parts)
    out = every.blank.copy()
    out[~out] = repeats(every.digests[~out])
    where = Where(np.empty(0, np.uint8), {}, int(out.sum() - every.blank.sum()))
    if where.copies:
        warn(
            f"{where.copies:,} of {np.count_nonzero(~every.blank):,} documents repeat an earlier"
            " one, word for word: left out"
        )
    first = 0
    for facts, may_cut in zip(parts, cuttable, strict=True):
        kept = np.flatnonzero(~out[first : first + len(facts.blank)])
        one = Where(np.full(len(facts.blank), LEFT_OUT, np.uint8), {})
        if len(kept):
            labels, cuts = _divide(facts.rows(kept), settings, may_cut)
            one.labels[kept] = labels
            one.cuts = {int(kept[document]): cut for document, cut in cuts.items()}
        where += one
        first += len(facts.blank)
    if settings.near_duplicates != "ignore":
        where.near = _compare(where.labels, every.signatures, settings.near_duplicates == "drop")
    return where


def repeats(digests: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of some texts are copies of an earlier one: (n,), by their digests (n, 2)."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: the earliest stays the first
    same = np.zeros(len(digests), np.bool_)
    same[order[1:]] = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
    return same


def keys(digests: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A number for each text, evenly spread over all 64 bits, other ones for each seed: (n,).

    Source of the mixing: Steele et al., "Fast splittable pseudorandom number generators", 2014.
    """
    mixed: NDArray[np.uint64] = digests[:, 0] + np.uint64(0x9E3779B97F4A7C15 * (seed + 1) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def cut(characters: int, settings: Tokenize) -> tuple[int, int]:
    """At which characters of a text val and test begin; nanoGPT's cut where test is 0."""
    # decimals, as they stand in the file: in floats 1 - 0.05 - 0.05 is less than 0.9
    val, test = Decimal(repr(settings.val)), Decimal(repr(settings.test))
    return int(characters * (1 - val - test)), int(characters * (1 - test))


def _divide(
    facts: Facts, settings: Tokenize, may_cut: bool
) -> tuple[NDArray[np.uint8], dict[int, Cuts]]:
    """Labels of the documents of a corpus, and where those are cut that are."""
    count = len(facts.bytes)
    if count >= MANY:
        labels = _by_hash(facts, settings)
        if len(np.unique(labels)) == np.count_nonzero(_shares(settings)):
            return labels, {}
    whole = _by_bytes(facts, settings)
    if may_cut and count <= FEW and (whole is None or _far(facts.bytes, whole, settings)):
        labels, cuts = _by_position(facts, settings)
        if cuts:
            if count > 1:
                warn(
                    f"{count:,} documents of these lengths do not divide into val {settings.val:g}"
                    f" and test {settings.test:g}, so {len(cuts):,} of them"
                    f" {'is' if len(cuts) == 1 else 'are'} cut, by length"
                )
            return labels, cuts
    if whole is None:
        size = int(facts.characters.sum())
        raise UserError(
            f"the corpus has {size:,} character{'s' * (size > 1)} in {count:,}"
            f" document{'s' * (count > 1)}, too few for tokenize.val {settings.val:g}"
            f" and tokenize.test {settings.test:g}; bring more text"
        )
    return whole, {}


def _shares(settings: Tokenize) -> NDArray[np.float64]:
    """What was asked for, in the order of SPLITS."""
    return np.array([1 - settings.val - settings.test, settings.val, settings.test])


def _by_hash(facts: Facts, settings: Tokenize) -> NDArray[np.uint8]:
    """Each by its own hash: the lowest are val, then test."""
    part = keys(facts.digests, settings.seed) / 2.0**64
    val, test = settings.val, settings.test
    return np.select([part < val, part < val + test], [1, 2], 0).astype(np.uint8)


def _by_bytes(facts: Facts, settings: Tokenize) -> NDArray[np.uint8] | None:
    """In the order of their hashes, as near as can be to the shares; each split has one at least.

    None: there are fewer documents than splits.
    """
    count, three = len(facts.bytes), settings.test > 0
    if count < 2 + three:
        return None
    order = np.argsort(keys(facts.digests, settings.seed))
    ends = np.concatenate(([0], np.cumsum(facts.bytes[order]))) / facts.bytes.sum()
    first = int(np.abs(ends - settings.val).argmin())
    first = min(max(first, 1), count - 1 - three)
    second = int(np.abs(ends - settings.val - settings.test).argmin()) if three else first
    second = min(max(second, first + three), count - 1)
    labels = np.zeros(count, np.uint8)
    labels[order[:first]], labels[order[first:second]] = 1, 2
    return labels


def _far(sizes: NDArray[np.int64], labels: NDArray[np.uint8], settings: Tokenize) -> bool:
    """Whether a split has much more or less than was asked for."""
    asked = _shares(settings)
    has = np.bincount(labels, sizes, minlength=3) / sizes.sum()
    return bool(((has > asked * FAR) | (has < asked / FAR)).any())


def _by_position(facts: Facts, settings: Tokenize) -> tuple[NDArray[np.uint8], dict[int, Cuts]]:
    """Each document in three; those that are short beside the others stay whole, to train on."""
    cuts = {}
    for document, characters in enumerate(facts.characters.tolist()):
        first, second = cut(characters, settings)
        long = characters >= SHORT * facts.characters.mean()
        if long and 0 < first < second and (second < characters or not settings.test):
            cuts[document] = first, second, characters
    labels = np.zeros(len(facts.bytes), np.uint8)
    labels[list(cuts)] = CUT
    return labels, cuts


def _compare(labels: NDArray[np.uint8], signatures: NDArray[np.uint32], drop: bool) -> int:
    """Count near copies of documents, those held out first, and say what they are.

    Args:
        drop: leave out, of train, what is almost an earlier or a held-out one.

    Raises:
        UserError: there are too many documents, or nothing is left to train on.
    """
    near.check_number(int(np.count_nonzero(labels != LEFT_OUT)))
    held_out, others = near.Seen(), near.Seen()
    trained = np.flatnonzero((labels == SPLITS.index("train")) | (labels == CUT))
    again = leaked = 0
    for document in np.flatnonzero(
        (labels == SPLITS.index("val")) | (labels == SPLITS.index("test"))
    ):
        again += held_out.has(signatures[document])
        held_out.add(signatures[document])
    for document in trained:
        leak = held_out.has(signatures[document])
        copy = leak or others.has(signatures[document])
        leaked, again = leaked + leak, again + copy
        if not copy:
            others.add(signatures[document])
        elif drop:
            labels[document] = LEFT_OUT
    if not np.isin(labels, (SPLITS.index("train"), CUT)).any():
        raise UserError(
            "tokenize.near_duplicates: drop leaves nothing to train on: every document is almost"
            " one of val or test; set it to count, or bring other text"
        )
    if again:
        done = (
            "left out" if drop else "kept; tokenize.near_duplicates: drop leaves them out of train"
        )
        warn(
            f"{again:,} documents are almost another one ({near.ALIKE:.0%} of their words in fives,"
            f" or more), {leaked:,} of them in train and almost one of val or test: {done}"
        )
    return again


def check_shares(splits: Mapping[Name, Split], settings: Tokenize) -> None:
    """Warn where whole documents make a split much longer or shorter than it should be."""
    total = sum(split.bytes for split in splits.values())
    documents = sum(split.documents for split in splits.values())
    far = [
        f"{name} has {split.bytes / total:.1%} of the text and not about {asked:.1%}"
        for (name, split), asked in zip(splits.items(), _shares(settings), strict=True)
        if asked and not asked / FAR <= split.bytes / total <= asked * FAR
    ]
    if far:
        warn(
            f"{', '.join(far)}: documents are not cut, and {documents:,} of these lengths do not"
            " divide better; bring more"
        )
