"""Which code runs: its commit, and all in which the files differ from it, as a diff.

seen = look(Path("pipelines/mine"))
seen.commit, seen.dirty, seen.diff       # `git apply` makes that commit these files
"""

import logging
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nanogpt.common.secrets import holds_secret

log = logging.getLogger(__name__)

# git reads nothing in a checkout of another user's, as in a container, unless it is told to:
# whoever runs the code that lies there has trusted it already
GIT = ("git", "-c", "safe.directory=*")
LARGEST = 5_000_000  # bytes of a diff that is kept
# what always differs while DVC is at work, or is a result
NOT_CODE = (":(exclude,glob)**/dvc.lock", ":(exclude)data", ":(exclude).dvcignore")
# the same diff whatever a person's configuration of git says
PLAIN = (
    *("--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames"),
    *("--no-relative", "--unified=3", "--src-prefix=a/", "--dst-prefix=b/"),
)


@dataclass(frozen=True)
class Seen:
    """The code of the current folder; `missing` says in a line why something is not known."""

    commit: str | None = None
    dirty: bool | None = None
    diff: bytes | None = None  # if dirty, unless it is not to be kept
    missing: str | None = None

    def tags(self) -> dict[str, str]:
        """As tags of a run, by the names that MLflow's pages know."""
        tags = {"git.missing": self.missing} if self.missing else {}
        if self.commit:
            tags["mlflow.source.git.commit"] = self.commit
            tags["git.dirty"] = str(self.dirty).lower()
        return tags


def look(recipe: Path) -> Seen:
    """The code in the current folder, the root of a checkout; warns of what cannot be recorded.

    Files that git does not know count below `nanogpt`, `pipelines` and the recipe's own folder.
    """
    seen = _look(recipe)
    if seen.missing and not seen.commit:
        log.warning("the record of this training names no commit with its code: %s", seen.missing)
    elif seen.missing:
        log.warning("the record of this training is without its changed code: %s", seen.missing)
    return seen


def _look(recipe: Path) -> Seen:
    # the second name: a repository around this folder that does not hold it has a HEAD as well
    try:
        head = _git("rev-parse", "HEAD", "HEAD:./nanogpt/__init__.py").partition(b"\n")[0]
    except _GitError as error:
        return Seen(missing=str(error))
    commit = head.decode()
    try:
        size, diff = _diff(recipe)
    except (_GitError, OSError) as error:
        return Seen(commit, True, missing=f"git cannot say in what files differ: {error}")
    if not size:
        return Seen(commit, False)
    if diff is None or size > LARGEST:
        return Seen(commit, True, missing=f"its diff has {size:,} bytes, more than {LARGEST:,}")
    if secret := _secret(diff):
        return Seen(commit, True, missing=f"its diff holds a password or a token, in {secret}")
    return Seen(commit, True, diff)


def _diff(recipe: Path) -> tuple[int, bytes | None]:
    """The size of the diff of all files, and itself unless it is far too large."""
    folders = [path for path in ("nanogpt", "pipelines") if Path(path).exists()]
    own = [recipe.as_posix()] if recipe != Path() else ["params.yaml", "dvc.yaml"]
    with tempfile.TemporaryDirectory() as place:
        # an index of its own: nothing of the person's is touched, and what they told git to
        # assume unchanged is looked at as well; new objects lie in there too
        real = os.path.abspath(os.fsdecode(_git("rev-parse", "--git-path", "objects")).strip())
        mine = {"GIT_INDEX_FILE": f"{place}/index", "GIT_OBJECT_DIRECTORY": place}
        mine |= {"GIT_ALTERNATE_OBJECT_DIRECTORIES": real}
        _git("read-tree", "HEAD", extra=mine)
        others = ("ls-files", "--others", "--exclude-standard", "-z", "--")
        new = _git(*others, *folders, *own, *NOT_CODE, extra=mine).split(b"\0")[:-1]
        size = sum(os.lstat(os.fsdecode(name)).st_size for name in new)
        if size > 10 * LARGEST:  # which no compression makes small
            return size, None
        if new:
            words = ("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul")
            literal = mine | {"GIT_LITERAL_PATHSPECS": "1"}
            _git(*words, stdin=b"\0".join(new), extra=literal)
        found = _git("diff", *PLAIN, "HEAD", "--", ".", *NOT_CODE, extra=mine)
        return len(found), found


def _secret(diff: bytes) -> str | None:
    """The first file in whose diff a line holds a secret, or None."""
    hidden = [value.encode() for value in _credentials()]
    file = "it"
    for line in diff.split(b"\n"):
        if line.startswith(b"diff --git "):
            file = line.rpartition(b" b/")[2].decode("utf-8", "replace")
        text = line.decode("utf-8", "replace")
        if holds_secret(text) or any(value in line for value in hidden):
            return file
    return None


def _credentials() -> Iterable[str]:
    """Values of the environment that are secret by their names."""
    names = re.compile("TOKEN|SECRET|PASSW|API_KEY|CREDENTIAL", re.IGNORECASE)
    return (value for key, value in os.environ.items() if names.search(key) and len(value) >= 8)


class _GitError(Exception):
    """What git said, in a line."""


def _git(*words: str, stdin: bytes = b"", extra: Mapping[str, str] | None = None) -> bytes:
    command = [*GIT, "-c", "core.quotePath=false", *words]
    known = os.environ | {"GIT_OPTIONAL_LOCKS": "0", **(extra or {})}
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, env=known)
    except FileNotFoundError:
        raise _GitError("there is no program git") from None
    if done.returncode:
        raise _GitError(done.stderr.decode("utf-8", "replace").partition("\n")[0])
    return done.stdout
