"""A recipe made from another: its folder, its settings with changes, the graph.

    python -m pipelines.new --like=pipelines/finetune_shakespeare --corpus='poems/*.txt'
    python -m pipelines.new --like=. --name=wide --set model.n_embd=256 --set model.n_inner=768

Prints the folder, here pipelines/finetune_poems, then pipelines/wide; or runs it, with --run.
Comments on keys stay. A recipe that is there already is left as it is, if it asks for the same.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines import fields
from pipelines.given import OWN, get, name_for, put, refused, seen_from_root
from pipelines.graph import (
    RecipeError,
    adopt,
    dvc_environment,
    find_recipe,
    one_line,
    root,
)
from pipelines.run import repro, telling_on

NOT_YAML = (YAMLError, ValueError, RecursionError)  # such as a 13th month, brackets in brackets
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{,99}")  # as settings.py asks of `data`
HEAD = "# Made from {}; the default recipe explains the keys.\n\n"


def create(name: str, like: Path, changes: Mapping[str, Any]) -> Path:
    """Make the folder `pipelines/<name>`; returns it as seen from the repository's root.

    Args:
        like: the folder of the recipe to start from.
        changes: path of a key, such as `download.corpus` → its value.

    Raises:
        RecipeError: not a name; no such recipe or key; changes that do not go with that recipe; or
            a recipe of this name that asks for something else.
    """
    if not NAME.fullmatch(name):
        raise RecipeError(
            f"{name!r} cannot name a recipe; give a NAME of letters, digits, _ -, up to 100"
        )
    folder = Path("pipelines", name)
    for other in (root() / "pipelines").iterdir():
        if other.name != name and other.name.lower() == name.lower():
            raise RecipeError(
                f"{name!r} differs from pipelines/{other.name} in capitals alone, and some disks"
                " cannot tell these apart; give another NAME"
            )
    if (root() / folder / "params.yaml").exists():
        _check_same(folder, changes)
        return folder
    if (root() / folder).exists():
        raise RecipeError(f"{folder} is there already, and is no recipe; give another NAME")
    _check_own_data(f"data/{name}")
    values = _without_head(like / "params.yaml")
    _change(values, changes, like)
    values |= {"root": "../..", "params": f"{folder}/params.yaml", "data": f"data/{name}"}
    head = HEAD.format(os.path.relpath(like / "params.yaml", root()))
    temporary = root() / ".dvc" / "tmp"  # where neither git nor DVC looks, should it stay
    temporary.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temporary) as made:
        whole = Path(made, name)
        whole.mkdir()
        (whole / "params.yaml").write_text(head + _yaml_text(values), encoding="utf-8")
        shutil.copyfile(root() / "dvc.yaml", whole / "dvc.yaml")
        whole.rename(root() / folder)
    return folder


def _check_same(folder: Path, changes: Mapping[str, Any]) -> None:
    values = _values(root() / folder / "params.yaml")
    for key, value in changes.items():
        if (found := get(values, key, folder)) != value:
            raise RecipeError(
                f"{folder} is there already, with {key}: {found!r}; give another NAME, or edit its"
                f" params.yaml and run it with `make run RECIPE={folder}`"
            )


def _check_own_data(data: str) -> None:
    """Two recipes that write to one place would stop every DVC command."""
    for file in (*root().glob("params.yaml"), *root().glob("pipelines/*/params.yaml")):
        if Path(str(_values(file).get("data"))) == Path(data):
            raise RecipeError(
                f"{data} is where {file.relative_to(root())} writes; give another NAME"
            )


def _change(values: Any, changes: Mapping[str, Any], like: Path) -> None:
    """Change the settings of `like`, and what would no longer go with them."""
    asked = dict(changes)
    if own := sorted(asked.keys() & OWN):
        raise RecipeError(f"{own[0]} cannot be chosen: it follows from the recipe's NAME")
    corpus = get(values, "download.corpus", like)
    if asked.get("download.corpus", corpus) != corpus:
        # not the digest of another corpus, and not a word of it
        asked = {"download.sha256": None, "sample.prompt": ""} | asked
    if asked.get("download.base") and not get(values, "download.base", like):
        raise RecipeError(
            f"{like / 'params.yaml'} has no base, and settings for one differ; start from a recipe"
            " that has one, such as LIKE=pipelines/finetune_shakespeare"
        )
    if "sample.prompt" in asked:
        asked = {"sample.prompt_file": None} | asked
    for key, value in asked.items():
        put(values, key, value, like)


def make(name: str, like: Path, changes: Mapping[str, Any]) -> Path:
    """`create`, but a recipe whose first stage could not even begin is refused and not left there.

    Raises:
        RecipeError: as `create`; or what `nanogpt check` says.
    """
    new = not (root() / "pipelines" / name).exists()
    recipe = create(name, like, changes)
    try:
        if new and (why := refused(recipe, root())):
            raise RecipeError(why)
    except BaseException:  # Ctrl-C too
        if new:
            shutil.rmtree(root() / recipe)
        raise
    return recipe


@contextmanager
def removed_if_nothing_comes(name: str) -> Iterator[None]:
    """Run a recipe; if it is new and its download did not end, nothing of it stays.

    Another attempt makes it again, be it the same or a better one.
    """
    recipe = root() / "pipelines" / name
    new = [folder for folder in (recipe, root() / "data" / name) if not folder.exists()]
    try:
        yield
    finally:
        lock = recipe / "dvc.lock"
        fetched = lock.exists() and re.search(r"^  download:", lock.read_text("utf-8"), re.M)
        if recipe in new and recipe.exists() and not fetched:
            for folder in new:
                shutil.rmtree(folder, ignore_errors=True)
            said = f"nothing was fetched, so pipelines/{name} is removed"
            print(f"{said}; the same command makes it again", file=sys.stderr)


def _values(file: Path) -> dict[str, Any]:
    values = _load(YAML(typ="safe", pure=True), file, _text(file))
    return values if isinstance(values, dict) else {}


def _without_head(file: Path) -> Any:
    """Settings with their comments, but for the words on the recipe above its first key."""
    text = _text(file)
    first = re.search(r"^root:", text, re.MULTILINE)
    if not first:
        raise RecipeError(f"{file} has no `root:`, which is a recipe's first key")
    return _load(YAML(), file, text[first.start() :])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise RecipeError(f"{file.parent} is not a recipe's folder: no params.yaml") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file} is not UTF-8 at byte {error.start}") from None


def _load(yaml: YAML, file: Path, text: str) -> Any:
    try:
        return yaml.load(text)
    except NOT_YAML as error:
        raise RecipeError(f"{file} is not valid YAML: {error}") from None


def _yaml_text(values: Any) -> str:
    yaml = YAML()  # keeps comments and order
    yaml.width = 200
    yaml.representer.add_representer(type(None), _null)
    out = StringIO()
    yaml.dump(values, out)
    return out.getvalue()


def _null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    try:
        return key, YAML(typ="safe", pure=True).load(value)
    except NOT_YAML:
        raise argparse.ArgumentTypeError(f"{key}: {value!r} is not valid YAML") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", help="its folder will be pipelines/<name>")
    parser.add_argument("--like", required=True, help="the recipe to copy: its folder or name")
    parser.add_argument("--corpus", help="download.corpus, seen from here")
    parser.add_argument(
        "--field",
        type=lambda text: _pair(f"--field={text}")[1],
        help="download.text_field, as in params.yaml; else conversations are looked for",
    )
    parser.add_argument("--base", help="download.base, seen from here")
    parser.add_argument("--prompt", help="sample.prompt; nothing where the corpus is another")
    parser.add_argument(
        "--set",
        type=_pair,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other key, its value as in params.yaml; as often as there are keys to change",
    )
    parser.add_argument("--run", action="store_true", help="and run it, as `make run` does")
    args = parser.parse_args()
    with one_line("new"):
        # the bytes of a file's name
        if odd := [
            word for word in sys.argv[1:] if word.encode("utf-8", "replace") != os.fsencode(word)
        ]:
            raise RecipeError(f"{os.fsencode(odd[0])!r} is not UTF-8; rename the file")
        asked = {"download.corpus": args.corpus, "download.base": args.base}
        given = {key: value for key, value in asked.items() if value}
        like = find_recipe(args.like)
        name = args.name or name_for(like, given.values())
        talks = fields.of_field(args.field) if args.field else {}
        if args.corpus and not args.field and (talks := fields.looked_up(args.corpus)):
            told = ", ".join(f"{key}: {value}" for key, value in talks.items())
            print(f"new: {args.corpus} holds conversations, hence {told}", file=sys.stderr)
            print("new: FIELD= names other fields, FIELD=text one of plain text", file=sys.stderr)
        changes: dict[str, Any] = talks | dict(args.set)
        changes |= {key: seen_from_root(value) for key, value in given.items()}
        if args.prompt:
            changes["sample.prompt"] = args.prompt
        if not args.run:
            print(make(name, like, changes))
            return
        with removed_if_nothing_comes(name):
            recipe = make(name, like, changes)
            adopt(recipe)  # one that was there may never have run
            sys.exit(repro(recipe))


if __name__ == "__main__":
    os.environ.update(dvc_environment())
    with telling_on():
        main()
