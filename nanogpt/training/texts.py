"""What a training reads: windows of the train split, and the val split to be scored on.

    windows = windows_of(tokens, settings)
    Trainer(model, optimizers, windows, held_out(tokens, apart), ...)
    print(seen(windows, visits))

Corpora of a mixture have names of their own in metrics, such as `val_loss/plays`.
"""

import re
from collections.abc import Iterator
from posixpath import normpath

import numpy as np

from nanogpt.batches import Text, Windows, borders
from nanogpt.common.errors import UserError
from nanogpt.common.secrets import without_folder
from nanogpt.evaluation import bits_per_byte
from nanogpt.settings import Settings
from nanogpt.text.tokens import Extent, Name, Tokens

LONGEST = 200  # characters of a corpus's name in metrics: MLflow takes 250 of all
OFTEN = 40  # epochs, past which a text taught nothing more (Muennighoff et al. 2023)


def windows_of(tokens: Tokens, settings: Settings) -> Windows:
    """The windows that a training takes.

    Raises:
        UserError: the text, or a part of it, is too short for one; or nothing in it counts.
    """
    train, manifest = settings.train, tokens.manifest
    if train.loss_on == "assistant":
        if not manifest.masked:
            raise UserError(
                "train.loss_on: 'assistant' is for conversations, and the corpus has none; say"
                " 'all', or name their field in download.text_field"
            )
        if not manifest.splits["train"].counted:
            raise UserError(f"{tokens.folder}: no conversation of the train split has an answer")
    if train.weights and len(train.weights) != len(manifest.parts):
        raise UserError(f"{tokens.folder} has other corpora now; run the tokenize stage again")
    text = _text(tokens, "train", train.packing == "documents", train.loss_on == "assistant")
    return Windows(text, settings.model.context, train.weights)


def held_out(tokens: Tokens, apart: bool) -> Text:
    """The val split to be scored; conversations as they are answered: each from its start, the
    answers alone.

    Args:
        apart: whether no text sees another.
    """
    return _text(tokens, "val", apart, tokens.manifest.masked)


def _text(tokens: Tokens, name: Name, apart: bool, answers: bool) -> Text:
    """A split as windows are cut from it.

    Args:
        answers: whether, of conversations, they alone count.
    """
    manifest, ids = tokens.manifest, tokens.split(name)
    return Text(
        ids,
        tokens.counted(name) if answers else None,
        _documents(tokens, name) if answers or apart else None,
        tuple(
            (key, part.splits[name].tokens)
            for key, part in zip(labels(tokens), manifest.parts, strict=True)
            if len(manifest.parts) > 1
        ),
    )


def _documents(tokens: Tokens, name: Name) -> np.ndarray:
    """Where the documents of a split begin and end."""
    manifest, ids = tokens.manifest, tokens.split(name)
    starts = np.asarray(tokens.starts(name))
    found = borders(ids, starts, None if manifest.begin else manifest.eot)
    for index, part in enumerate(manifest.parts):
        if part.conversations:  # whose template has all that begins one
            own = tokens.part(index, name)
            inside = (starts >= own.start) & (starts < own.stop)
            found[inside, 0] = starts[inside]
    return found


def bits(tokens: Tokens, apart: bool, loss: float, part: str | None = None) -> float:
    """Bits per byte of `held_out`, or of one part of it, at a loss in nats a token."""
    manifest = tokens.manifest
    extent: Extent = manifest.splits["val"]
    parts = manifest.parts
    if part is not None:
        parts = (parts[labels(tokens).index(part)],)
        extent = parts[0].splits["val"]
    counted = extent.counted
    if manifest.begin and (apart or manifest.masked):
        # the first token of each text is given, not predicted; a conversation's does not count
        given = sum(one.splits["val"].documents for one in parts if not one.conversations)
        counted -= max(0, given - 1)
    return bits_per_byte(loss, counted, extent.bytes)


def ahead(windows: Windows, visits: int) -> Iterator[str]:
    """What to tell before a training of so many windows."""
    if windows.packing:
        yield str(windows.packing)
        if cut := windows.packing.cut:
            yield (
                f"warning: of {cut:,} document{'s' * (cut != 1)} longer than model.context"
                f" {windows.context:,} each piece is read without what is before it, such as a"
                " question; raise model.context, or leave them out"
            )
    if read := seen(windows, visits):
        yield f"will read {read}"
    for name, epochs in _epochs(windows, visits):
        if epochs >= OFTEN:
            yield (
                f"warning: train.weights: {name} is read {epochs:.0f} times, and past {OFTEN} times"
                " a text teaches nothing more; give it less weight, or more text"
            )


def seen(windows: Windows, visits: int) -> str:
    """How often each corpus of a mixture is read in so many windows; "": it is no mixture."""
    return ", ".join(f"{name} {epochs:.2f} times" for name, epochs in _epochs(windows, visits))


def _epochs(windows: Windows, visits: int) -> list[tuple[str, float]]:
    if len(windows.spans) == 1:
        return []
    names = (name for name, _ in windows.text.parts)
    return list(zip(names, windows.epochs(visits), strict=True))


def labels(tokens: Tokens) -> list[str]:
    """What each corpus is called in metrics, no two alike, in characters that MLflow takes."""
    names = [without_folder(part.name) for part in tokens.manifest.parts]
    # it takes a name for a path, and no other spelling of one; the end of it tells more
    found = [normpath(re.sub(r"[^\w\-./: ]", "_", name))[-LONGEST:] for name in names]
    found = [name.lstrip("./") or "_" for name in found]
    return [f"{key}-{i}" if found.count(key) > 1 else key for i, key in enumerate(found, 1)]
