"""Who imports whom, read from the source: nothing is imported to find out."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent


def imported(file: Path) -> set[str]:
    """Dotted names of all that `file` imports, wherever in it: modules, or names out of them."""
    package = file.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            names |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return names


def closure(module: str) -> set[Path]:
    """Files of this repository that run when `module` does, seen from its root."""
    found: set[Path] = set()
    todo = [module]
    while todo:
        for file in _files(todo.pop()):
            if file not in found:
                found.add(file)
                todo += imported(file)
    return {file.relative_to(ROOT) for file in found}


def _files(name: str) -> Iterator[Path]:
    """The module that a dotted name means or comes from, and the packages it is in."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = ROOT.joinpath(*parts[:end])
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                yield file
