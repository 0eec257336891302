"""What is recorded of a registered version: the code, settings, data and machine that made it.

    origin = find_origin("models:/nanogpt-shakespeare/3", folder)
    print(origin.commit, origin.settings.parent)

Read through `nanogpt lineage`, into a folder with record.json, params.yaml, dvc.lock and code.diff.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dvc.utils.serialize import load_yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.graph import NotNow, RecipeError, dvc_environment
from pipelines.worktree import run


class _Part(BaseModel):
    """A part of the record; what a rebuild does not need is left out."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Code(_Part):
    commit: str | None = None
    dirty: bool | None = None
    diff_sha256: str | None = None
    missing: str | None = None


class Digests(_Part):
    weights: str | None = None
    model: str | None = None
    tokens: str | None = None
    corpus: str | None = None
    base: str | None = None


class Machine(_Part):
    processor: str
    instruction_set: str
    torch: str
    torch_build: str
    blas: str
    cuda: str | None
    device: str
    device_name: str | None
    dtype: str
    threads: int
    processes: int
    compile: bool
    parallel: str
    deterministic: bool
    platform: str
    variables: dict[str, str]


class Of(_Part):
    name: str | None
    version: str | None


class Record(_Part):
    of: Of
    recipe: str
    params_path: str
    code: tuple[Code, ...]
    digests: Digests
    sources: dict[str, Any]
    machine: Machine
    packages: dict[str, str]
    python: str
    resumed: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Origin:
    """A version, and the folder of its record."""

    model: str  # models:/<name>/<version>
    bits: float | None  # per byte of the validation text, of the version's tags
    folder: Path
    record: Record

    @property
    def code(self) -> Code:
        """That of its last steps."""
        return self.record.code[-1]

    @property
    def commit(self) -> str:
        assert self.code.commit is not None
        return self.code.commit

    @property
    def diff(self) -> Path | None:
        """What was changed and not committed."""
        number = len(self.record.code)
        path = self.folder / ("code.diff" if number == 1 else f"code-{number}.diff")
        return path if self.code.dirty else None

    @property
    def settings(self) -> Path:
        """Its params.yaml, seen from the root."""
        return Path(self.record.params_path)

    @property
    def data(self) -> Path:
        """Where the recipe's artifacts go, seen from the root."""
        return Path(load_yaml(str(self.folder / "params.yaml"))["data"])

    @property
    def stages(self) -> dict[str, Any]:
        """The stages of its dvc.lock, by name."""
        path = self.folder / "dvc.lock"
        found = load_yaml(str(path)) if path.exists() and path.stat().st_size else {}
        stages: dict[str, Any] = found.get("stages", {})
        return stages

    @property
    def key(self) -> str:
        """Eight digits that tell this rebuild from others."""
        files = (path for path in sorted(self.folder.iterdir()) if path.name != "dvc.lock")
        whole = b"".join(sha256(path.read_bytes()).digest() for path in files)
        return sha256(whole + self.model.encode()).hexdigest()[:8]


def find_origin(model: str, folder: Path, top: Path) -> Origin:
    """What MLflow has recorded of a version; its files go to `folder`.

    Raises:
        RecipeError: there is no such version, or not enough is recorded to build it again.
        NotNow: MLflow does not answer.
    """
    printed = nanogpt("lineage", f"--out={folder}", "--json", "--", model)
    try:
        record = Record.model_validate_json(printed)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(
            f"{model}: its record is of another form than this code reads"
            f" ({'.'.join(map(str, first['loc']))}: {first['msg']}); take the code that trained it,"
            " or newer"
        ) from None
    if not record.of.version:
        raise RecipeError(f"{model} is no registered version; `nanogpt ui` shows those that are")
    # as it is now: an alias may be moved while this is at work
    model = f"models:/{record.of.name}/{record.of.version}"
    bits = json.loads(nanogpt("reproduced", "--json", "--", model))["val_bits_per_byte"]
    origin = Origin(model, float(bits) if bits else None, folder, record)
    _check(origin, top)
    return origin


def _check(origin: Origin, top: Path) -> None:
    """Refuse a version whose code cannot be had."""
    model, code = origin.model, origin.code
    if not origin.record.digests.weights:
        raise RecipeError(f"{model}: no digest of its weights is recorded to compare with")
    if not code.commit:
        raise RecipeError(
            f"{model} cannot be built again: no commit with its code is recorded ({code.missing})"
        )
    if code.dirty and not code.diff_sha256:  # of one that is, `nanogpt lineage` looks at the bytes
        raise RecipeError(
            f"{model} cannot be built again: files differed from commit {code.commit[:10]}, and the"
            f" difference is not recorded ({code.missing})"
        )
    if run(["git", "cat-file", "-e", f"{code.commit}^{{commit}}"], top).returncode:
        raise RecipeError(f"{model}: {_missing_commit(code.commit, top)}")


def _missing_commit(commit: str, top: Path) -> str:
    said = f"its code is commit {commit}, which this repository does not have"
    if run(["git", "rev-parse", "--git-dir"], top).returncode:
        return f"its code is commit {commit}, and {top} is no git repository; ask in a clone of it"
    shallow = run(["git", "rev-parse", "--is-shallow-repository"], top).stdout.strip() == "true"
    if shallow:
        return f"{said}: it is a shallow clone; `git fetch --unshallow` brings the rest"
    remotes = run(["git", "remote"], top).stdout.split()
    if remotes:
        return f"{said}; `git fetch {remotes[0]} {commit}` brings it if {remotes[0]} has it"
    return f"{said}; fetch it from the clone that trained it: `git fetch <its path> {commit}`"


def nanogpt(*words: str) -> str:
    """Run a command of this checkout's own code; returns what it prints.

    Raises:
        RecipeError: what it said when it failed.
        NotNow: it may do better later.
    """
    done = subprocess.run(
        [sys.executable, "-m", "nanogpt.commands", *words],
        env=dvc_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        said = done.stderr.strip().removeprefix(f"{words[0]}: ") or f"nanogpt {words[0]} failed"
        raise (NotNow if done.returncode == NotNow.code else RecipeError)(said)
    return done.stdout
