"""A recipe made from another: its folder, its settings with changes, the graph.

    python -m pipelines.new --like pipelines/finetune_shakespeare --corpus 'poems/*.txt'

Prints the folder, here pipelines/finetune_poems. Comments on keys stay, paths are rewritten to be
seen from the folder. A recipe that is there already is left as it is, if it asks for the same.
"""

import argparse
import glob
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipelines.graph import RecipeError, root

CODE = "../../nanogpt"  # the package, seen from any recipe's folder


def create(name: str, like: Path, changes: Mapping[str, Any]) -> Path:
    """Make the folder `pipelines/<name>`, seen from the repository's root.

    Args:
        like: the recipe to start from.
        changes: path of a key, such as `download.corpus` → its value.

    Raises:
        RecipeError: not a name, no such recipe, or one of this name that asks for something else.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise RecipeError(f"{name!r} cannot name a recipe: letters, digits, _ . - are allowed")
    pipelines = root() / "pipelines"
    folder = pipelines / name
    source = like / "params.yaml"
    if not source.is_file():
        raise RecipeError(f"{like} is not a recipe's folder: it has no params.yaml")
    own = {"code": CODE, "data": f"../../data/{name}"}
    text = _changed(source.read_text(encoding="utf-8"), own | dict(changes))
    text = f"# A recipe like {like.as_posix()}; the default recipe explains the keys.\n\n{text}"
    if (folder / "params.yaml").exists():
        yaml = YAML(typ="safe")
        there = yaml.load((folder / "params.yaml").read_text(encoding="utf-8"))
        for key, value in changes.items():
            found = _section(there, key).get(key.rpartition(".")[2])
            if found != value:
                raise RecipeError(
                    f"pipelines/{name} is there already, with {key}: {found!r}; give another NAME,"
                    " or edit its params.yaml and run it with `make run"
                    f" RECIPE=pipelines/{name}`"
                )
        return folder.relative_to(root())
    partial = pipelines / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    (partial / "params.yaml").write_text(text, encoding="utf-8")
    shutil.copyfile(root() / "dvc.yaml", partial / "dvc.yaml")
    partial.rename(folder)
    return folder.relative_to(root())


def seen_from(folder: Path, given: str) -> str:
    """A path or glob of files that are here, as it is seen from `folder`; all else as it is.

    Raises:
        RecipeError: it is of that form, and there is no such file.
    """
    if os.path.isabs(os.path.expanduser(given)) or ":" in given:
        return given
    if glob.glob(given, recursive=True):
        return os.path.relpath(given, folder)
    if glob.has_magic(given) or "/" in given or re.search(r"\.[a-z]+$", given):
        raise RecipeError(
            f"no file matches {given!r}, seen from {Path.cwd()}; what is on the Hugging Face hub is"
            " hf:<id>@<revision>"
        )
    return given


def name_for(like: Path, given: Iterable[str]) -> str:
    """A name from the first word of the recipe that it is like, and what it is given."""
    words = [like.name.partition("_")[0]]
    for value in given:
        parts = [part for part in re.split("[/:]", value.partition("@")[0]) if part]
        names = [Path(part).stem for part in parts if not glob.has_magic(part)]
        words += [re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_") for name in names[-1:]]
    return "_".join(filter(None, words))


def _changed(text: str, changes: Mapping[str, Any]) -> str:
    yaml = YAML()  # keeps comments and order
    yaml.width = 200
    yaml.representer.add_representer(type(None), _null)
    values = yaml.load(text[text.index("\ncode:") + 1 :])  # without the words on the other recipe
    for key, value in changes.items():
        _section(values, key)[key.rpartition(".")[2]] = value
    out = StringIO()
    yaml.dump(values, out)
    return out.getvalue()


def _null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _section(values: Any, key: str) -> Any:
    for part in key.split(".")[:-1]:
        values = values[part]
    return values


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", help="its folder will be pipelines/<name>")
    parser.add_argument("--like", type=Path, required=True, help="folder of the recipe to copy")
    parser.add_argument("--corpus", help="download.corpus, seen from here")
    parser.add_argument("--base", help="download.base, seen from here")
    parser.add_argument("--prompt", help="sample.prompt; a new line where the corpus is another")
    args = parser.parse_args()
    try:
        asked = {"download.corpus": args.corpus, "download.base": args.base}
        given = {key: value for key, value in asked.items() if value}
        name = args.name or name_for(args.like, given.values())
        folder = root() / "pipelines" / name
        changes = {key: seen_from(folder, value) for key, value in given.items()}
        if args.prompt:
            changes["sample.prompt"] = args.prompt
        elif args.corpus and not folder.exists():
            changes["sample.prompt"] = "\n"  # not a word of another corpus
        print(create(name, args.like, changes))
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
