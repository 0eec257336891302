"""Git worktrees in which stages run on other code or settings, with DVC's cache of the checkout."""

import shutil
import subprocess
from pathlib import Path

from dvc.config import Config
from dvc.repo import Repo

from pipelines.graph import RecipeError, dvc_environment

ELSEWHERE = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}  # such as a git hook sets


def mend(copy: Path, top: Path) -> bool:
    """Whether the worktree `copy` of the checkout `top` is there; what only looks like it goes."""
    if copy.exists() and not _stands(copy, top):
        link = copy / ".git"
        if link.is_file() and not Path(link.read_text("utf-8").partition(" ")[2].strip()).exists():
            run(["git", "worktree", "repair", str(copy)], top)  # moved with its checkout
        if not _stands(copy, top):
            shutil.rmtree(copy)  # half removed, or that of a checkout which was copied
    return copy.exists()


def add(copy: Path, top: Path, commit: str) -> None:
    """Make a worktree with the files of a commit.

    Raises:
        RecipeError: git cannot.
    """
    git(top, "worktree", "prune")
    git(top, "worktree", "add", "--quiet", "--detach", str(copy), commit)


def remove(copy: Path, top: Path) -> None:
    """Remove a worktree with all that is in it."""
    git(top, "worktree", "remove", "--force", str(copy))


def share_cache(copy: Path, top: Path) -> None:
    """Have DVC in the copy read and fill the cache of the checkout."""
    with Repo(str(top)) as repo, Config(str(copy / ".dvc")).edit("local") as local:
        local["cache"] = {"dir": repo.cache.local_cache_dir}


def share_remotes(copy: Path, top: Path) -> None:
    """Have DVC in the copy know the remotes of the checkout, also those that came later."""
    with Repo(str(top)) as repo, Config(str(copy / ".dvc")).edit("local") as local:
        local["remote"] = {name: dict(about) for name, about in repo.config["remote"].items()}
        if default := repo.config["core"].get("remote"):
            local["core"] = {"remote": default}


def git(folder: Path, *words: str, why: str = "") -> str:
    """What git prints; `why` is said in place of its own words if it fails.

    Raises:
        RecipeError: it failed.
    """
    # no hooks: DVC's own would check out in a copy that has no cache yet
    done = run(["git", "-c", "core.hooksPath=/dev/null", *words], folder)
    if done.returncode:
        said = done.stderr.strip().removeprefix("fatal: ")
        raise RecipeError(why or f"`git {' '.join(words)}` failed: {said}")
    return done.stdout.strip("\n")


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, whatever a git hook around this has set."""
    return subprocess.run(
        command,
        cwd=folder,
        env={k: v for k, v in dvc_environment().items() if k not in ELSEWHERE},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )


def _stands(copy: Path, top: Path) -> bool:
    """Whether git in the copy works on the copy: without its .git it would on what lies above."""
    ask = ["git", "rev-parse", "--path-format=absolute", "--show-toplevel", "--git-common-dir"]
    ours = [str(copy.resolve()), git(top, *ask[1:3], "--git-common-dir")]
    return run(ask, copy).stdout.splitlines() == ours
