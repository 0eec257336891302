"""The Python environment of an earlier commit: the one that is there if it is the same, or another.

    wanted = versions(folder, recorded)         # which has the commit's lock and pyproject.toml
    if differing(wanted): make(wanted, python, place(wanted, python, below))

What counts are the versions that were recorded, of the packages that the commit's requirements.lock
names; without a lock, of all that was there. An environment is made once, and kept.
"""

import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from pipelines.graph import NotNow, RecipeError

MINUTES = "about 3 minutes and 2.3 GB"  # what it takes to make one, for a CPU
ROOM = 3 << 30  # bytes that the packages take, with what pip needs for a while
OURS = "nanogpt-pipelines"  # the project itself, whose code is that of the commit


def versions(folder: Path, recorded: Mapping[str, str]) -> dict[str, str]:
    """Versions of the packages that decide what the code in `folder` does, by name.

    Args:
        recorded: versions of all packages that there were when it ran.
    """
    there: dict[str, str] = {canonicalize_name(name): version for name, version in recorded.items()}
    lock = folder / "requirements.lock"
    if not lock.exists():
        return {name: version for name, version in there.items() if name != OURS}
    lines = [line.partition("#")[0].strip() for line in lock.read_text("utf-8").splitlines()]
    found: dict[str, str] = {}
    for line in filter(None, lines):
        needed = Requirement(line)
        name: str = canonicalize_name(needed.name)
        pinned = next((pin.version for pin in needed.specifier if pin.operator == "=="), None)
        if (needed.marker is None or needed.marker.evaluate()) and (pinned or name in there):
            found[name] = there.get(name) or str(pinned)
    for tool in _tools(folder / "pyproject.toml"):  # they test and check, and run nothing
        found.pop(tool, None)
    return found


def differing(wanted: Mapping[str, str]) -> dict[str, tuple[str, str | None]]:
    """Of these versions those that are not installed here, each with the one that is."""
    here: dict[str, str] = {
        canonicalize_name(found.name): found.version for found in importlib.metadata.distributions()
    }
    # a build, as in 2.13.0+cpu, is what an index has for this machine
    return {
        name: (version, here.get(name))
        for name, version in wanted.items()
        if name not in here or Version(here[name]).public != Version(version).public
    }


def place(wanted: Mapping[str, str], python: str, below: Path) -> Path:
    """The folder of the environment with these versions, whether it has been made or not."""
    return below / sha256(f"{python}\n{_lines(wanted)}".encode()).hexdigest()[:12]


def is_made(folder: Path) -> bool:
    """Whether an environment is complete."""
    return (folder / "ready").exists()


def is_here(python: str) -> bool:
    """Whether this is a Python of a version such as 3.12.4, but for its last number."""
    return python.rpartition(".")[0] == f"{sys.version_info[0]}.{sys.version_info[1]}"


def which(python: str) -> str | None:
    """Another Python of this version on this machine, but for its last number."""
    return shutil.which(f"python{python.rpartition('.')[0]}")


def make(wanted: Mapping[str, str], python: str, folder: Path) -> None:
    """Make an environment with these versions, by the package index that pip knows.

    Args:
        python: the version of Python that it is to have, if that is on this machine.

    Raises:
        RecipeError: there is no room.
        NotNow: pip failed; its last lines.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder.parent).free) < ROOM:
        raise RecipeError(
            f"the environment of that commit needs {ROOM >> 30} GiB, and {folder.parent} has"
            f" {free >> 20:,} MiB left; make room, or say ENVIRONMENT=this to take the one here"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "requirements.txt").write_text(_lines(wanted), encoding="utf-8")
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", "-r")
    with (folder / "install.log").open("w", encoding="utf-8") as log:
        for command in (
            ((not is_here(python) and which(python)) or sys.executable, "-m", "venv", folder),
            (*pip, folder / "requirements.txt"),
        ):
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
            if done.returncode:
                last = (folder / "install.log").read_text("utf-8", "replace").splitlines()[-8:]
                raise NotNow(
                    "the environment of that commit cannot be installed here:\n"
                    + "\n".join(f"  {line}" for line in last)
                    + f"\nthe whole log is {log.name}; mend that and run the same command again, or"
                    " say ENVIRONMENT=this to take the environment that is here"
                )
    (folder / "ready").touch()


def _lines(wanted: Mapping[str, str]) -> str:
    return "".join(f"{name}=={Version(v).public}\n" for name, v in sorted(wanted.items()))


def _tools(pyproject: Path) -> set[str]:
    """The packages of the extra `dev`, but for those that the code needs as well."""
    if not pyproject.exists():
        return set()
    project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {})
    extras = project.get("optional-dependencies", {})
    needed, tools = (
        {str(canonicalize_name(Requirement(line).name)) for line in lines}
        for lines in (project.get("dependencies", []), extras.get("dev", []))
    )
    return tools - needed
