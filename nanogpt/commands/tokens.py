"""What a vocabulary made of a recipe's text, and what the text is.

nanogpt tokens                          # of the recipe at the root
nanogpt tokens finetune_shakespeare --json
"""

import json
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nanogpt.common.errors import UserError
from nanogpt.common.recipe import how_to_run
from nanogpt.settings import load
from nanogpt.text.checks.profile import Profile, label
from nanogpt.text.tokens import SPLITS, Extent, Tokens, open_tokens
from nanogpt.text.words.library import open_library
from nanogpt.text.words.spelling import Spelling

BLOCK = 1 << 22  # ids that are counted at a time
COMMONEST, LONGEST, UNUSED = 12, 8, 20  # tokens that are shown of each
PARAGRAPH = 400  # bytes of text whose tokens are shown
BAR = 30  # columns of the longest
BORDER = "│"
ISOLATE, ISOLATED = "\N{FIRST STRONG ISOLATE}", "\N{POP DIRECTIONAL ISOLATE}"
# what Unicode calls them says little
CALLED = {"Common": "blanks, digits and marks", "Inherited": "accents", "Unknown": "unassigned"}
COLOURS = "black on bright_cyan", "black on bright_yellow"


def show(recipe: Path, as_json: bool) -> None:
    """Print what there is to know of a recipe's tokens.

    Raises:
        UserError: there are none yet, or they are damaged.
    """
    settings = load(recipe / "params.yaml")
    place = recipe / settings.root
    folder = place / settings.path("tokens")
    if not folder.exists():
        raise UserError(
            f"the recipe {settings.recipe} has no tokens yet: `{how_to_run(recipe, place)}` makes"
            " them"
        )
    tokens = open_tokens(folder)
    if as_json:
        print(json.dumps(as_values(tokens), indent=1, ensure_ascii=False))
    else:
        width = None if sys.stdout.isatty() else 120
        console = Console(emoji=False, highlight=False, markup=False, width=width)
        Page(console, tokens, settings.recipe).print()


def as_values(tokens: Tokens) -> dict[str, Any]:
    """All that is shown, for programs; texts of tokens with escapes for what is no character."""
    manifest, words = tokens.manifest, Words(tokens)
    profile = manifest.profile.model_dump(mode="json")
    return {
        "corpus": manifest.corpus,
        "tokenizer": manifest.tokenizer,
        "vocab_size": manifest.vocab_size,
        "splits": {name: _extent(split) for name, split in manifest.splits.items()},
        "parts": [
            {"name": part.name, "splits": {n: _extent(split) for n, split in part.splits.items()}}
            for part in manifest.parts
        ],
        "profile": profile,
        "unused": len(words.unused),
        "commonest": [words.about(token) for token in words.commonest()],
        "longest": [words.about(token) for token in words.longest()],
        "paragraph": words.paragraph(),
    }


def _extent(split: Extent) -> dict[str, Any]:
    known = split.model_dump(include={*Extent.model_fields})
    return known | {"bytes_per_token": split.bytes / max(1, split.counted)}


class Words:
    """The vocabulary, and how often each entry stands in the train split."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.spelling = Spelling(open_library(tokens.folder))
        ids = tokens.split("train")
        self.counts: NDArray[np.int64] = np.zeros(tokens.manifest.vocab_size, np.int64)
        for begin in range(0, len(ids), BLOCK):
            found = np.bincount(ids[begin : begin + BLOCK], minlength=len(self.counts))
            if len(found) > len(self.counts):
                raise UserError(
                    f"{tokens.folder / 'train.bin'} has the id {len(found) - 1:,}, and its"
                    f" tokenizer has {len(self.counts):,}; run the tokenize stage again"
                )
            self.counts += found
        self.used = np.flatnonzero(self.counts).tolist()
        used = {*self.used, *self.spelling.added}  # what stands around texts may stand around none
        self.unused = [token for token in self.spelling.ids if token not in used]

    def commonest(self) -> list[int]:
        return sorted(self.used, key=lambda token: (-self.counts[token], token))[:COMMONEST]

    def longest(self) -> list[int]:
        texts = [token for token in self.used if token not in self.spelling.added]
        sizes = {token: len(self.spelling.bytes(token)) for token in texts}
        return sorted(texts, key=lambda token: (-sizes[token], token))[:LONGEST]

    def about(self, token: int) -> dict[str, Any]:
        count = int(self.counts[token])
        share = count / max(1, int(self.counts.sum()))
        return {"id": token, "text": self.spelling.shown(token), "count": count, "share": share}

    def paragraph(self) -> list[str]:
        """The tokens of the first held-out text, of PARAGRAPH bytes of it."""
        shown: list[str] = []
        size = 0
        for token in self.tokens.split("val")[:PARAGRAPH].tolist():
            size += len(self.spelling.bytes(token))
            if size > PARAGRAPH:
                break
            shown.append(self.spelling.shown(token))
        return shown


class Page:
    """What a person reads."""

    def __init__(self, console: Console, tokens: Tokens, recipe: str) -> None:
        self.console, self.tokens, self.recipe = console, tokens, recipe
        self.words = Words(tokens)

    def print(self) -> None:
        manifest, words, entries = self.tokens.manifest, self.words, len(self.words.spelling.ids)
        self._titled(
            f"recipe {self.recipe}: {manifest.corpus}, tokenizer {manifest.tokenizer},"
            f" {entries:,} entr{'y' if entries == 1 else 'ies'}",
            self._sizes(),
        )
        cut = sum(manifest.profile.lengths) > sum(manifest.profile.sizes)
        note = "; one that is cut counts in tokens by its parts" if cut else ""
        self._titled(f"documents by length{note}", _lengths(manifest.profile))
        for line in _about(manifest.profile):
            self._titled(line)
        unused = f"\nnever in train: {len(words.unused):,} of {entries:,}"
        if 0 < len(words.unused) <= UNUSED:
            unused += f": {' '.join(map(self._quoted, words.unused))}"
        elif singles := sum(len(words.spelling.bytes(token)) == 1 for token in words.unused):
            unused += f", {singles:,} of them single bytes, which other text may need"
        self._titled(f"{unused}\n")
        self._titled("the commonest tokens", self._tokens(words.commonest()))
        if manifest.tokenizer != "char":
            self._titled("the longest tokens", self._tokens(words.longest()))
        self._titled("the first held-out text, token by token\n", self._paragraph())

    def _titled(self, title: str, *shown: Table | Text) -> None:
        for line in (title, *shown):
            self.console.print(line, soft_wrap=not isinstance(line, Table))

    def _sizes(self) -> Table:
        manifest = self.tokens.manifest
        masked = ("all but prompts",) if manifest.masked else ()
        table = _table("split", "documents", "tokens", *masked, "bytes", "bytes a token")
        for name in SPLITS:
            _row(table, name, manifest.splits[name], manifest.masked)
            for part in manifest.parts if len(manifest.parts) > 1 else ():
                _row(table, f"  {part.name}", part.splits[name], manifest.masked)
        return table

    def _tokens(self, tokens: list[int]) -> Table:
        table = _table("token", "id", "count in train", "share")
        for token in tokens:
            about = self.words.about(token)
            share = f"{about['share']:.2%}"
            table.add_row(Text(self._quoted(token)), str(token), f"{about['count']:,}", share)
        return table

    def _quoted(self, token: int) -> str:
        shown = f"'{self.words.spelling.shown(token)}'"
        # what is written from right to left would turn what stands beside it around
        turned = any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in shown)
        return f"{ISOLATE}{shown}{ISOLATED}" if turned else shown

    def _paragraph(self) -> Text:
        """Borders of tokens by colours or, where there are none, by a mark."""
        coloured = self.console.is_terminal and not self.console.no_color
        text = Text()
        for i, shown in enumerate(self.words.paragraph()):
            if coloured:
                text.append(shown, COLOURS[i % 2])
            else:
                text.append(f"{BORDER if i else ''}{shown}")
            if shown.endswith("\\n"):
                text.append("\n")
        return text


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def _row(table: Table, name: str, split: Extent, masked: bool) -> None:
    """Add a split's figures; bytes are those of the tokens that count, the last column's too."""
    each = f"{split.bytes / split.counted:.3f}" if split.counted else "-"
    counts = split.documents, split.tokens, *([split.counted] if masked else []), split.bytes
    table.add_row(name, *(f"{count:,}" for count in counts), each)


def _lengths(profile: Profile) -> Table:
    """How many documents are how long, from the shortest bin that has one to the longest."""
    table = Table(box=box.SIMPLE)
    table.add_column("length", justify="right")
    for unit in ("in bytes", "in tokens"):
        table.add_column(unit)
    bins = max(len(profile.sizes), len(profile.lengths))
    rows = [_padded(counts, bins) for counts in (profile.sizes, profile.lengths)]
    first = next((i for i, both in enumerate(zip(*rows, strict=True)) if any(both)), bins)
    for i in range(first, bins):
        table.add_row(label(i), *(_bar(counts, i) for counts in rows))
    return table


def _padded(counts: tuple[int, ...], bins: int) -> list[int]:
    return [*counts, *[0] * (bins - len(counts))]


def _bar(counts: list[int], i: int) -> str:
    if not counts[i]:
        return ""
    return f"{'█' * max(1, round(BAR * counts[i] / max(counts)))} {counts[i]:,}"


def _about(profile: Profile) -> Iterator[str]:
    """What the text is, a line each."""
    total = max(1, profile.characters)
    scripts = [
        f"{CALLED.get(name, name)} {count / total:.1%}" for name, count in profile.scripts.items()
    ]
    yield f"characters: {profile.characters:,}: {', '.join(scripts)}"
    yield f"copies: {profile.copies:,} documents that are another one word for word: left out"
    if profile.near_copies is not None:
        yield f"near copies: {profile.near_copies:,} documents that are almost another one"
    if profile.replaced:
        yield f"replaced: {profile.replaced:,} characters that could not be read once (U+FFFD)"
    if profile.unknown:
        yield f"unknown: {profile.unknown:,} tokens for what the vocabulary does not have"
    if profile.changed:
        yield (
            f"changed: {profile.changed:,} of {profile.turned_back:,} texts do not come back from"
            " their tokens as they were"
        )
    for title, kinds in (("noted", profile.odd), ("skipped", profile.skipped)):
        for kind, noted in kinds.items():
            s = "" if noted.texts == 1 else "s"
            yield f"{title}: {kind}: {noted.texts:,} text{s}, first {noted.places[0]}"
