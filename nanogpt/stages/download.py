"""Bring in everything from outside: the base model, the corpus, the vocabulary of its tokenizer.

    python -m nanogpt.stages.download params.yaml

The only stage that touches the network. The files are in a folder when all of them are right.
"""

from collections.abc import Collection

from nanogpt.common.command import run_stage
from nanogpt.common.manifest import File
from nanogpt.settings import Settings, load
from nanogpt.sizing.ahead import before_download
from nanogpt.sources.bases import download_base
from nanogpt.sources.corpora import download


def main(settings: Settings) -> None:
    if note := before_download(settings):
        print(note, flush=True)
    base = download_base(settings.download.bases, settings.path("base"))
    if base.name:
        print(f"base {base.name}: {_size(base.files)}, from {base.source}")
        print(f"  licence: {base.licence}", flush=True)
    tokenizer = settings.tokenize.tokenizer
    raw = download(settings.download, tokenizer, settings.path("base"), settings.path("raw"))
    print(f"{raw.corpus}: {_size(raw.files)}, from {raw.source}")
    print(f"  licence: {raw.licence}")


def _size(files: Collection[File]) -> str:
    size = sum(file.bytes for file in files)
    return f"{len(files)} file{'s' if len(files) > 1 else ''}, {size:,} bytes"


if __name__ == "__main__":
    run_stage(load, main)
