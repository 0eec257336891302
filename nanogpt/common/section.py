"""A section of settings, and what is wrong with one in words for its reader."""

import re
from collections.abc import Iterator
from datetime import date
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from nanogpt.common.recipe import did_you_mean
from nanogpt.common.secrets import public

UNIONS = Union, UnionType


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def unknown(cls, key: str, meant: str) -> str:
        """What to say of a key that this section does not have, and which one may be meant."""
        return f"unknown key{meant or ';'} known here: {', '.join(cls.model_fields)}"


def mistakes(error: ValidationError, kind: type[Section]) -> list[str]:
    """What is wrong, a line each: the key's path, the value that stands there, what is allowed."""
    found: dict[str, list[str]] = {}
    meant: dict[str, str] = {}
    for detail in _told(error.errors()):
        place, allowed = _explain(detail, kind)
        found.setdefault(place, []).append(allowed)
        if detail["type"] == "literal_error" and isinstance(detail["input"], str):
            choices = re.findall("'([^']*)'", detail["ctx"]["expected"])
            meant[place] = did_you_mean(detail["input"], choices)
    # a value that may be of two types is refused once for each of them: one line for both
    return [
        f"{place}: " + " or ".join(dict.fromkeys(said)) + meant.get(place, "")
        for place, said in found.items()
    ]


def _told(details: list[Any]) -> list[Any]:
    """Without what other kinds of value say of a list or mapping that has a mistake inside."""

    def of_another_kind(detail: Any) -> bool:
        return detail["type"].endswith("_type") and isinstance(detail["input"], (list, dict))

    inside = {detail["loc"][:2] for detail in details if not of_another_kind(detail)}
    return [d for d in details if not of_another_kind(d) or d["loc"][:2] not in inside]


def _explain(detail: Any, kind: type[Section]) -> tuple[str, str]:
    """Where a mistake is, with the value that stands there, and what is allowed."""
    value = detail["input"]
    if detail["type"] == "extra_forbidden":
        *above, key = detail["loc"]
        above = [name for name in above if name in _keys(kind)]
        section = kind
        for name in above:
            section = _section(section.model_fields[name].annotation, lists=True) or section
        path = ".".join((*above, str(key)))
        return path, section.unknown(key, _meant(path, kind))
    # pydantic adds the members of a union to the path: keep what stands in the file
    path = ".".join(key for key in detail["loc"] if key in _keys(kind))
    if detail["type"] == "missing":
        return path, "is missing; the default recipe explains it: `git show HEAD:params.yaml`"
    shown = f"{path}: {public(repr(value))}"
    if detail["type"] == "value_error":
        said = str(detail["ctx"]["error"])
        if not path:  # of all settings: it names its place itself
            place, _, said = said.partition(": ")
            return place, said
        return (path if isinstance(value, dict) else shown), said
    said = re.sub("^(Input|String|List) should", "should", detail["msg"])
    said = re.sub("valid dictionary or instance of .*", "mapping", said)
    said = said.replace(" after validation", "")
    if detail["type"] == "string_type" and isinstance(value, (int, float, date)):
        said += "; put it into quotes"
    return shown, said


def _keys(section: type[BaseModel]) -> set[str]:
    keys = set(section.model_fields)
    for field in section.model_fields.values():
        if inner := _section(field.annotation):
            keys |= _keys(inner)
    return keys


def _meant(path: str, kind: type[Section]) -> str:
    """Which key may be meant by a wrong one: of its name elsewhere, or of a similar name."""
    section, _, key = path.rpartition(".")
    known = [*_paths(kind)]
    if elsewhere := [other for other in known if other.rpartition(".")[2] == key]:
        return f"; did you mean {' or '.join(elsewhere)}?"
    beside = {
        other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == section
    }
    anywhere = {other.rpartition(".")[2]: other for other in known}
    return did_you_mean(key, beside, beside.__getitem__) or did_you_mean(
        key, anywhere, anywhere.__getitem__
    )


def _paths(section: type[BaseModel], above: str = "") -> Iterator[str]:
    """The paths of all keys, such as `train.steps`."""
    for name, field in section.model_fields.items():
        yield f"{above}{name}"
        if inner := _section(field.annotation):
            yield from _paths(inner, f"{above}{name}.")


def _section(annotation: Any, lists: bool = False) -> type[Section] | None:
    """The section that a field holds, or may hold; with `lists`, in a list too."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    origin = get_origin(annotation)
    inner = get_args(annotation) if lists or origin in UNIONS else ()
    return next(filter(None, (_section(kind, lists) for kind in inner)), None)
