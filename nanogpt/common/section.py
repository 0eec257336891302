"""A section of settings, and what is wrong with one in words for its reader."""

from datetime import date
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from nanogpt.common.secrets import public


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def unknown(cls, key: str) -> str:
        """What to say of a key that this section does not have."""
        return f"unknown key; known here: {', '.join(cls.model_fields)}"


def mistakes(error: ValidationError, kind: type[Section]) -> list[str]:
    """What is wrong, a line each: the key's path, the value that stands there, what is allowed."""
    found: dict[str, list[str]] = {}
    for detail in error.errors():
        place, allowed = _explain(detail, kind)
        found.setdefault(place, []).append(allowed)
    # a value that may be of two types is refused once for each of them: one line for both
    return [f"{place}: " + " or ".join(dict.fromkeys(said)) for place, said in found.items()]


def _explain(detail: Any, kind: type[Section]) -> tuple[str, str]:
    """Where a mistake is, with the value that stands there, and what is allowed."""
    value = detail["input"]
    if detail["type"] == "extra_forbidden":
        *above, key = detail["loc"]
        section = kind
        for name in above:
            section = _section(section.model_fields[name].annotation) or section
        return ".".join(detail["loc"]), section.unknown(key)
    # pydantic adds the members of a union to the path: keep what stands in the file
    path = ".".join(key for key in detail["loc"] if key in _keys(kind))
    if detail["type"] == "missing":
        return path, "is missing"
    shown = f"{path}: {public(repr(value))}"
    if detail["type"] == "value_error":
        said = str(detail["ctx"]["error"])
        if not path:  # of all settings: it names its place itself
            place, _, said = said.partition(": ")
            return place, said
        return (path if isinstance(value, dict) else shown), said
    said = detail["msg"].replace("Input should", "should", 1)
    if detail["type"] == "string_type" and isinstance(value, (int, float, date)):
        said += "; put it into quotes"
    return shown, said


def _keys(section: type[BaseModel]) -> set[str]:
    keys = set(section.model_fields)
    for field in section.model_fields.values():
        if inner := _section(field.annotation):
            keys |= _keys(inner)
    return keys


def _section(annotation: Any) -> type[Section] | None:
    """The section that a field holds, or may hold."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, Section)), None)
