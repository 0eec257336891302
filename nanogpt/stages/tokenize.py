"""Turn the corpus into token files: the vocabulary, three splits and their ids, on all cores.

python -m nanogpt.stages.tokenize --raw data/shakespeare/raw --out data/shakespeare/tokens
"""

import argparse
from pathlib import Path

from nanogpt.config import Settings
from nanogpt.stages import run
from nanogpt.token_writer import tokenize


def main(args: argparse.Namespace, settings: Settings) -> None:
    manifest = tokenize(args.raw, args.out, settings.tokenize)
    print(f"{manifest['corpus']}: a vocabulary of {manifest['vocab_size']:,} ({manifest['dtype']})")
    for name, split in manifest["splits"].items():
        count = split["documents"]
        print(
            f"  {name}: {split['tokens']:,} tokens of {split['bytes']:,} bytes"
            f" in {count:,} document{'' if count == 1 else 's'}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--raw", type=Path, required=True, help="what the download stage made")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    run(main, parser)
