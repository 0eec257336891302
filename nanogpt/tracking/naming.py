"""What a training is called in MLflow: by what sets it apart from what was committed."""

import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nanogpt.settings import Settings, parse
from nanogpt.tracking.code import GIT

SHOWN = 5  # differences
VALUE = 24  # characters of a value
ASIDE = {"root", "params", "data", "machine", "eval", "sample"}  # they change no training


def run_name(settings: Settings) -> str:
    """The name of DVC's experiment, or what differs from git's HEAD, or the recipe's name.

    Such as `n_layer=6 learning_rate=0.003`.
    """
    if experiment := os.environ.get("DVC_EXP_NAME"):
        return experiment
    committed = _committed(settings.params)
    now = dict(flatten(settings.model_dump(exclude=ASIDE)))
    before = dict(flatten(committed.model_dump(exclude=ASIDE))) if committed else now
    changed = [key for key, value in now.items() if value != before.get(key, "")]
    changed += [key for key in before if key not in now]
    last = Counter(key.rpartition(".")[2] for key in {*now, *before})
    words = [
        f"{name if last[name := key.rpartition('.')[2]] == 1 else key}={_short(now.get(key, ''))}"
        for key in changed[:SHOWN]
    ]
    if more := len(changed) - len(words):
        words.append(f"and {more} more")
    return " ".join(words) or settings.recipe


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as `train.steps` and a text each."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value).replace("\0", "\\0")  # PostgreSQL has no null


def _committed(params: str) -> Settings | None:
    """The recipe's settings at HEAD; None where it has none that this code understands."""
    try:
        shown = subprocess.run([*GIT, "show", f"HEAD:./{params}"], capture_output=True)
        if shown.returncode:
            return None
        return parse(YAML(typ="safe").load(shown.stdout))
    except (FileNotFoundError, YAMLError, ValidationError, ValueError, AttributeError):
        return None  # no git; a form of other times


def _short(value: str) -> str:
    text = " ".join(value.split()) or "none"
    return text if len(text) <= VALUE else f"{text[: VALUE - 1]}…"
