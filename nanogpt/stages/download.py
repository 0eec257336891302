"""Bring in everything from outside: the corpus, and the vocabulary of its tokenizer.

    python -m nanogpt.stages.download --out data/shakespeare/raw

The only stage that touches the network. The files are in the folder when all of them are right.
"""

import argparse
from pathlib import Path

from nanogpt.config import Settings
from nanogpt.corpora import download
from nanogpt.stages import run


def main(args: argparse.Namespace, settings: Settings) -> None:
    manifest = download(settings.download, settings.tokenize.tokenizer, args.out)
    files = manifest["files"]
    size = sum(file["bytes"] for file in files)
    count = f"{len(files)} file{'s' if len(files) > 1 else ''}"
    print(f"{manifest['corpus']}: {count}, {size:,} bytes, from {manifest['source']}")
    print(f"  licence: {manifest['licence']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    run(main, parser)
