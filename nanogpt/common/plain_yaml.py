"""A YAML file of settings → its values, if everybody who reads that file finds the same in it.

DVC reads params.yaml twice over: what it compares and writes into dvc.lock comes from libyaml, what
`dvc exp run -S` rewrites from a parser in Python, after OmegaConf has looked through the strings.
What one of them takes for something else is refused here, where its line or key can be named.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StringMark, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
)

from nanogpt.common.errors import UserError

DEPTH = 10


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The values of a file; all keys are strings.

    Raises:
        UserError: there is no such file; it is not UTF-8 or not YAML; it has no keys; or DVC would
            read, change or rewrite something in it that does not look so.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if trick := next(_tricks(text), None):
            raise UserError(f"{path}: {trick}")
        values = YAML(typ="safe").load(text)  # as DVC: libyaml where it is installed
        if repr(values) != repr(YAML(typ="safe", pure=True).load(text)):
            raise UserError(f"{path} has a value that DVC reads in two ways; put it into quotes")
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist, seen from {Path.cwd()}; name the params.yaml of a recipe"
        ) from None
    except (YAMLError, ValueError, OverflowError) as error:  # ValueError: such as a 13th month
        raise UserError(f"{path} is not valid YAML: {_fault(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings; start from a copy of the repository's own")
    if mistakes := list(_mistakes(values)):
        raise UserError("\n".join((f"{path}:", *(f"  {mistake}" for mistake in mistakes))))
    return values


def _tricks(text: str) -> Iterator[str]:
    """Whatever makes one value of a YAML file change another, or its type."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEPTH:  # libyaml ends the process at some depth
            yield f"{_place(event.start_mark)}: settings are not nested as deeply as this"
        elif isinstance(event, DocumentStartEvent) and (event.version or event.tags):
            yield "a line that begins with % has other parts of the file read in another way"
        elif (
            isinstance(event, AliasEvent)
            or getattr(event, "anchor", None)
            or (getattr(event, "value", None), getattr(event, "style", "")) == ("<<", None)
        ):
            yield (
                f"{_place(event.start_mark)}: &, * and << let `dvc exp run -S` change several"
                " values at once; write the value itself, or in quotes"
            )
        elif tag := getattr(event, "tag", None):
            yield f"{_place(event.start_mark)}: {tag}: write the value without a tag, or in quotes"


def _mistakes(values: Any, place: str = "") -> Iterator[str]:
    """What is YAML, and means another thing to DVC, to OmegaConf or in UTF-8."""
    if isinstance(values, dict):
        for key, value in values.items():
            if not isinstance(key, str):
                yield f"{place}{key!r}: a key has to be a word"
            else:
                yield from _mistakes(value, f"{place}{key}.")
    elif isinstance(values, list):
        for value in values:
            yield from _mistakes(value, place)
    elif isinstance(values, str):
        shown = f"{place.removesuffix('.')}: {values!r}"
        if "${" in values or values == "???":
            yield (
                f"{shown}: `dvc exp run -S` fills in ${{…}} and ???; write it in another way"
                " (a prompt: in a file that sample.prompt_file names)"
            )
        elif any("\ud800" <= letter <= "\udfff" for letter in values):
            yield f"{shown}: half of a surrogate pair is no letter"


def _fault(error: Exception) -> str:
    """What is wrong with a YAML file and where, without the library's advice to programmers."""
    if not isinstance(error, MarkedYAMLError):
        return " ".join(str(error).split())
    said = str(error.problem).partition(" with value")[0]
    return f"{said}, in {_place(error.problem_mark)}" if error.problem_mark else said


def _place(mark: StringMark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
