"""Score pretrained models as they are, on one corpus: a recipe of zero steps for each, and a table.

    python -m pipelines.baselines gpt2 smollm2-135m --corpus=shakespeare

Bits per byte can be compared; a loss is nats a token, and tokens differ from model to model.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.given import name_for, seen_from_root
from pipelines.graph import RecipeError, root
from pipelines.new import create, removed_if_nothing_comes
from pipelines.run import telling_on, wait_for

LIKE = Path("pipelines/baseline")
BASES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "smollm2-135m")
FORMATS = {"bits_per_byte": ".4f", "tokens": ",", "loss": ".4f", "perplexity": ".2f"}


def main() -> int:
    """The command; returns its exit code: 0 if at least one model could be scored."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bases", nargs="*", default=BASES, help=f"default: {' '.join(BASES)}")
    parser.add_argument("--corpus", default="shakespeare", help="as in params.yaml, seen from here")
    args = parser.parse_args()
    table = Table(title=escape(f"held-out text of {args.corpus}"), title_justify="left")
    for column in ("base", "split", "bits per byte", "tokens", "loss", "perplexity"):
        table.add_column(column, justify="left" if column in ("base", "split") else "right")
    missing = []
    for base in args.bases:
        try:
            scores = score(base, args.corpus)
        except RecipeError as error:
            print(error, file=sys.stderr)
            scores = None
        if scores is None:
            missing.append(base)
            continue
        figures = (f"{scores[key]:{form}}" for key, form in FORMATS.items())
        table.add_row(escape(base), scores["split"], *figures)
    if table.row_count:
        Console(emoji=False, highlight=False).print(table)
    if missing:
        print(f"not scored, for the reasons above: {', '.join(missing)}", file=sys.stderr)
    return 0 if table.row_count else 2


def score(base: str, corpus: str) -> dict[str, Any] | None:
    """What `eval` said of a base; None where its pipeline failed, and said why."""
    name = name_for(LIKE, (base, corpus))
    given = {"download.base": base, "download.corpus": corpus}
    changes = {key: seen_from_root(text) for key, text in given.items()}
    with removed_if_nothing_comes(name):
        recipe = create(name, root() / LIKE, changes)
        if wait_for("-m", "dvc", "repro", f"{recipe}/dvc.yaml", folder=root()):
            return None
    found: dict[str, Any] = json.loads(
        (root() / "data" / name / "eval.json").read_text(encoding="utf-8")
    )
    return found


if __name__ == "__main__":
    with telling_on():
        sys.exit(main())
