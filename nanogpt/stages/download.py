"""Bring in everything from outside: the base model, the corpus, the vocabulary of its tokenizer.

    python -m nanogpt.stages.download --out data/shakespeare/raw --base data/shakespeare/base

The only stage that touches the network. The files are in a folder when all of them are right.
"""

import argparse
from pathlib import Path
from typing import Any

from nanogpt.bases import download_base
from nanogpt.config import Settings
from nanogpt.corpora import download, find
from nanogpt.stages import run


def main(args: argparse.Namespace, settings: Settings) -> None:
    find(settings.download.corpus, settings.download.text_field)  # a typo is told first
    base = download_base(settings.download.bases, args.base)
    if base["base"]:
        print(f"base {base['base']}: {_size(base)}, from {base['source']}")
        print(f"  licence: {base['licence']}", flush=True)
    manifest = download(settings.download, settings.tokenize.tokenizer, args.base, args.out)
    print(f"{manifest['corpus']}: {_size(manifest)}, from {manifest['source']}")
    print(f"  licence: {manifest['licence']}")


def _size(manifest: dict[str, Any]) -> str:
    files = manifest["files"]
    size = sum(file["bytes"] for file in files)
    return f"{len(files)} file{'s' if len(files) > 1 else ''}, {size:,} bytes"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the corpus's folder, to be made")
    parser.add_argument("--base", type=Path, required=True, help="the base's folder, to be made")
    run(main, parser)
