"""params.yaml → typed settings, refused early and clearly.

settings = load("params.yaml")
"""

import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from nanogpt.config import Model, Settings, Window, parse, settings_type
from nanogpt.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers (`1e-3` is one) and no silent second value for a key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} stands twice, again in line {line}"
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load(path: str | Path) -> Settings:
    """Read and check a recipe's settings.

    Raises:
        UserError: the file is missing or not YAML, or a key is unknown, missing, of the wrong
            type or impossible; the message has every such key's path, its value and what is
            allowed.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; run this in a recipe's folder, or name the file with --params"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings; start from a copy of the repository's own")
    try:
        return parse(values)
    except ValidationError as error:
        mistakes: dict[str, list[str]] = {}
        for detail in error.errors():
            place, allowed = _explain(detail, settings_type(values))
            mistakes.setdefault(place, []).append(allowed)
        # a value that may be of two types is refused once for each of them: one line for both
        lines = [f"  {place}: " + " or ".join(dict.fromkeys(m)) for place, m in mistakes.items()]
        raise UserError("\n".join((f"{path}:", *lines))) from None


def _explain(detail: Any, kind: type[Settings]) -> tuple[str, str]:
    """Where a mistake is, with the value that stands there, and what is allowed."""
    if detail["type"] == "extra_forbidden":
        *above, key = detail["loc"]
        section: type[BaseModel] = kind
        for name in above:
            section = _section(section.model_fields[name].annotation) or section
        place = ".".join(detail["loc"])
        if section is Window and key in Model.model_fields:
            return place, "comes with download.base; leave it out, or set that to null"
        return place, f"unknown key; known here: {', '.join(section.model_fields)}"
    # pydantic adds the members of a union to the path: keep what stands in the file
    path = ".".join(key for key in detail["loc"] if key in _keys(kind))
    if detail["type"] == "missing":
        return path, "is missing"
    if detail["type"] == "value_error":
        said = str(detail["ctx"]["error"])
        if not path:  # of all settings: it names its place itself
            place, _, said = said.partition(": ")
            return place, said
        place = path if isinstance(detail["input"], dict) else f"{path}: {detail['input']!r}"
        return place, said
    return f"{path}: {detail['input']!r}", detail["msg"].replace("Input should", "should", 1)


def _keys(section: type[BaseModel]) -> set[str]:
    keys = set(section.model_fields)
    for field in section.model_fields.values():
        if inner := _section(field.annotation):
            keys |= _keys(inner)
    return keys


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, or may hold."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)
