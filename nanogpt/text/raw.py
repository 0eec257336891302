"""The corpus as the download stage brought it: `data/<recipe>/raw`.

    raw = open_raw(Path("data/shakespeare/raw"))
    print(raw.corpus, raw.digest)

The folder holds manifest.json, corpus/ (files of the kinds that `text/documents.py` reads; each of
several corpora has a folder of its own: corpus/0/ and so on) and, where the tokenizer needs one,
vocabulary/.
"""

import os
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, Self

from nanogpt.common.manifest import File, Manifest, check_sizes, read_manifest
from nanogpt.settings import Download, Fields, TextField

KINDS = (".txt", ".md", ".jsonl", ".json", ".csv", ".parquet")
PACKINGS = (".gz", ".zst")
READABLE = f"{' '.join(KINDS)}, all but .parquet also with {' or '.join(PACKINGS)}"


def kind_of(name: str) -> tuple[str, str]:
    """The kind of a file by its name, and how it is packed, if it is: `.jsonl` and `.gz`, say."""
    stem, last = os.path.splitext(name.lower())
    return (os.path.splitext(stem)[1], last) if last in PACKINGS else (last, "")


def is_readable(name: str) -> bool:
    """Whether a file of this name is of a kind that can be read."""
    kind, packing = kind_of(name)
    return kind in KINDS and not (packing and kind == ".parquet")


def column_of(field: str, columns: Collection[str]) -> str | None:
    """The column that a field is, or that it is inside of, as `meta.text` of `meta`."""
    dots = (i for i in reversed(range(len(field))) if field[i] == ".")
    return next((field[:end] for end in (len(field), *dots) if field[:end] in columns), None)


class Vocabulary(Manifest):
    """What the tokenizer is made of."""

    name: str
    source: str
    files: tuple[File, ...]


def names_of(text_field: TextField | tuple[str, ...]) -> tuple[str, ...]:
    """The fields that are read, as they were named."""
    match text_field:
        case str(name):
            return (name,)
        case Fields(messages=messages, prompt=prompt, completion=completion):
            return tuple(filter(None, (messages, prompt, completion)))
        case names:
            return tuple(names)


class Reading(Manifest):
    """How the documents in the files of a corpus are read: keys of `download`."""

    text_field: str | tuple[str, ...] | Fields
    separator: str | None
    newlines: Literal["keep", "unix"]
    bad_documents: Literal["refuse", "skip"]

    @classmethod
    def of(cls, settings: Download, text_field: TextField) -> Self:
        """That of one of the corpora of `download`, whose text is in `text_field`."""
        return cls(
            text_field=tuple(text_field) if isinstance(text_field, list) else text_field,
            separator=settings.separator,
            newlines=settings.newlines,
            bad_documents=settings.bad_documents,
        )

    @property
    def names(self) -> tuple[str, ...]:
        return names_of(self.text_field)


class RawPart(Manifest):
    """One corpus of those that a recipe names."""

    name: str
    licence: str
    source: str
    reading: Reading
    files: int  # how many of `Raw.files`, in their order


class Raw(Manifest):
    """The manifest of a corpus, or of several."""

    corpus: str  # the names of its parts, as licence and source are theirs
    licence: str
    source: str
    parts: tuple[RawPart, ...]
    files: tuple[File, ...]  # of one part after another
    digest: str  # SHA-256 of the list of files
    vocabulary: Vocabulary | None

    def by_part(self) -> Iterator[tuple[RawPart, tuple[File, ...]]]:
        """Each part with its files."""
        files = iter(self.files)
        return ((part, tuple(islice(files, part.files))) for part in self.parts)


def open_raw(folder: Path) -> Raw:
    """The manifest of a folder that the download stage made.

    Raises:
        UserError: it is another folder, or a file in it is missing or of another size.
    """
    raw = read_manifest(folder, Raw, "download")
    check_sizes(folder, {file.name: file.bytes for file in raw.files}, "download")
    return raw
