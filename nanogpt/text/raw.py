"""The corpus as the download stage brought it: `data/<recipe>/raw`.

    raw = open_raw(Path("data/shakespeare/raw"))
    print(raw.corpus, raw.digest)

The folder holds manifest.json, corpus/ (.txt and .md: a document a file; .jsonl: a document a line;
.parquet: a document a row) and, where the tokenizer needs one, vocabulary/.
"""

from pathlib import Path

from nanogpt.common.manifest import File, Manifest, check_sizes, read_manifest


class Vocabulary(Manifest):
    """What the tokenizer is made of."""

    name: str
    source: str
    files: tuple[File, ...]


class Raw(Manifest):
    """The manifest of a corpus."""

    corpus: str
    licence: str
    source: str
    text_field: str
    files: tuple[File, ...]
    digest: str  # SHA-256 of the list of files
    vocabulary: Vocabulary | None


def open_raw(folder: Path) -> Raw:
    """The manifest of a folder that the download stage made.

    Raises:
        UserError: it is another folder, or a file in it is missing or of another size.
    """
    raw = read_manifest(folder, Raw, "download")
    check_sizes(folder, {file.name: file.bytes for file in raw.files}, "download")
    return raw
