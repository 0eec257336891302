"""A recipe with other settings, run in a copy of the checkout and kept as a DVC experiment.

    with experiment("pipelines/mine", {"train.steps": 100}) as copy:
        ...                                 # at its root, `copy.top`; the checkout stays as it is

The copy is a git worktree where DVC has the copies of its own (`dvc exp run --temp`), with DVC's
cache of the checkout, so that stages which the change does not reach are not run again. A run that
failed or was stopped leaves its copy, and the same one goes on in it.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc.utils.serialize import modify_yaml
from filelock import FileLock, Timeout

from pipelines import worktree
from pipelines.given import OWN, put, refused
from pipelines.graph import RecipeError, name_of, root
from pipelines.worktree import git, run

COPIES = Path(".dvc", "tmp", "exps")  # nanogpt/common/place.py: what runs there belongs to the root
GRAPH = {"dvc.yaml", "dvc.lock", "params.yaml"}
LONGEST = 100  # characters of an experiment's name
SECRET = re.compile(r"://[^\s/?#]*@|://\S*\?")  # an address with a user, or signed in its query


@dataclass
class Copy:
    """A copy of the checkout, in which a recipe has other settings."""

    top: Path  # its root
    name: str  # of the experiment that it becomes


def title(recipe: str | Path, overrides: Mapping[str, Any]) -> str:
    """What runs, in one line: `shakespeare train.steps=100`."""
    return " ".join([name_of(recipe), *words(overrides)])


def words(overrides: Mapping[str, Any]) -> list[str]:
    """Each setting as one would say it: `train.steps=100`."""
    plain = {key: v if isinstance(v, str) else json.dumps(v) for key, v in overrides.items()}
    return [f"{key}={'…' if SECRET.search(v) else v}" for key, v in plain.items()]


def refuse_secrets(overrides: Mapping[str, Any]) -> None:
    """Raise RecipeError for an address that may hold a password: what Prefect and git keep."""
    for key, value in overrides.items():
        if SECRET.search(json.dumps(value)):
            raise RecipeError(
                f"{key}: an address with a user or a query would stand on Prefect's pages and in"
                " git; for https keep a password in ~/.netrc, for s3: and gs: in the environment"
            )


@contextmanager
def experiment(recipe: Path, overrides: Mapping[str, Any]) -> Iterator[Copy]:
    """The copy to run in; if all went well it becomes an experiment, and goes.

    Raises:
        RecipeError: a setting is refused, git has no commit yet or nobody's name, or another run
            with these settings is at work.
    """
    if wrong := sorted(OWN & overrides.keys()):
        raise RecipeError(f"{wrong[0]} cannot be overridden: it says where the recipe lies")
    top, whole = root(), title(recipe, overrides)
    name = re.sub(r"[^A-Za-z0-9=._-]+|\.\.+", "-", whole)  # a name for git
    if name != whole.replace(" ", "-") or len(name) > LONGEST or name.endswith((".", ".lock")):
        name = f"{name[: LONGEST - 9]}-{sha256(whole.encode()).hexdigest()[:8]}"
    copy = Copy(top / COPIES / name, name)
    copy.top.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{copy.top}.lock", timeout=0):
            made = _bring_up_to_date(copy.top, top)
            folder = recipe.resolve().relative_to(top)
            try:
                if made:
                    _check_out(copy.top, folder)
                _override(copy.top, folder, overrides)
            except RecipeError:
                if made:
                    worktree.remove(copy.top, top)
                raise
            yield copy
            copy.name = _save(copy, folder)
            worktree.remove(copy.top, top)
    except Timeout:
        raise RecipeError(f"another run of `{whole}` is at work; wait for its end") from None


def _bring_up_to_date(copy: Path, top: Path) -> bool:
    """Give the copy the checkout's code and settings of now; whether it was made for that.

    What git knows comes as it is here, committed or not. Of the rest, recipes, code and figures are
    copied and all else, such as texts, is linked to.
    """
    head = git(top, "rev-parse", "--verify", "HEAD", why="make a first commit: overrides need one")
    git(top, "var", "GIT_COMMITTER_IDENT", why="tell git your name, as an experiment is a commit")
    new = not worktree.mend(copy, top)
    if new:
        worktree.add(copy, top, head)
    else:
        git(copy, "reset", "--quiet", head)
        git(copy, "clean", "-fdq", "-e", "dvc.lock", "--", "nanogpt", "pipelines")  # gone here
    # else stash fails where files were copied and nothing changed
    git(top, "status", "--porcelain")
    why = "git cannot put aside what is changed here (`git stash create`); commit it first"
    changed = git(top, "stash", "create", why=why)
    # a copy that was there already has results of its own
    own = [] if new else [":(exclude)data", ":(exclude)*dvc.lock"]
    git(copy, "restore", f"--source={changed or head}", "--worktree", "--", ".", *own)
    for other in _unknown_to_git(top):
        here, there = top / other, copy / other
        if not here.exists():
            continue  # a link to nothing, such as an editor's lock
        if (other.name == "dvc.lock" or other.parts[0] == "data") and there.exists():
            continue  # the copy's own are further
        there.parent.mkdir(parents=True, exist_ok=True)
        there.unlink(missing_ok=True)
        if other.name in GRAPH or other.parts[0] in ("nanogpt", "data"):
            shutil.copyfile(here, there)
        else:
            there.symlink_to(here)
    worktree.share_cache(copy, top)
    return new


def _check_out(copy: Path, recipe: Path) -> None:
    """Bring the results of the checkout's last run, of which those that stay true are kept."""
    if (copy / recipe / "dvc.lock").exists():
        with Repo(str(copy)) as repo:
            file = str(copy / recipe / "dvc.yaml")
            # as `dvc exp run --temp` does
            repo.checkout([file], with_deps=True, force=True, allow_missing=True)


def _unknown_to_git(top: Path) -> list[Path]:
    """Files that git neither tracks nor ignores, seen from the root, without DVC's own."""
    listed = git(top, "ls-files", "--others", "--exclude-standard", "-z").split("\0")
    return [Path(name) for name in listed if name and not name.startswith(".dvc/")]


def _override(copy: Path, recipe: Path, overrides: Mapping[str, Any]) -> None:
    """Write the settings, and have them read: a wrong one is refused before anything runs."""
    with modify_yaml(str(copy / recipe / "params.yaml")) as values:
        for key, value in overrides.items():
            put(values, key, value, recipe)
    if why := refused(recipe, copy, downloaded=True):
        raise RecipeError(why)


def _save(copy: Copy, recipe: Path) -> str:
    """Make an experiment of the copy; its name, with a digest if another one has the plain name."""
    files = [recipe / "params.yaml", recipe / "dvc.lock"]
    digest = sha256(b"".join((copy.top / file).read_bytes() for file in files)).hexdigest()[:8]
    name = copy.name
    listed = ("for-each-ref", "--format=%(refname)", f"refs/exps/**/{name}")
    for other in git(copy.top, *listed).splitlines():
        for file in files:
            kept = run(["git", "show", f"{other}:{file.as_posix()}"], copy.top).stdout
            if kept != (copy.top / file).read_text(encoding="utf-8"):
                name = f"{copy.name[: LONGEST - 9]}-{digest}"
    settings = str(recipe / "params.yaml")  # which git may not know yet
    save = f"dvc exp save -f -n {name} -I {settings} {recipe / 'dvc.yaml'}"
    done = run([sys.executable, "-m", *save.split(" ")], copy.top)
    if done.returncode:
        raise RecipeError(f"`{save}` in {copy.top} failed: {done.stderr.strip()}")
    return name
