"""What a stage made, as artifacts on the page of the flow's run.

Figures become a table, Markdown stays Markdown, plots become a picture: all that dvc.yaml names.
"""

import base64
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.flatten import flatten
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from pipelines.graph import Stage, dvc_environment, root
from pipelines.repro import command


def show_results(recipe: str, stage: Stage, top: Path) -> None:
    """Show what a stage has made below `top`: figures, texts and plots, under stable keys."""
    for file in stage.metrics:
        rows = [{"figure": name, "value": value} for name, value in _figures(top / file)]
        create_table_artifact(rows, key(recipe, stage.name), f"`{file}`")
    for file in stage.texts:
        text = (top / file).read_text(encoding="utf-8")
        create_markdown_artifact(text, key(recipe, Path(file).stem), f"`{file}`")
    if stage.plots:
        folder = Path(stage.address).parent.as_posix()
        drawn = _say("-m", "pipelines.plots", f"--recipe={folder}", "workspace", top=top)
        picture = base64.b64encode(Path(drawn).read_bytes()).decode()
        text = f"![curves](data:image/png;base64,{picture})"
        create_markdown_artifact(text, key(recipe, "curves"), "the `plots` of dvc.yaml")


def show_settings(recipe: str, folder: Path, top: Path) -> None:
    """Show in which settings the recipe in `folder` differs from the last commit, if in any."""
    file = (folder / "params.yaml").relative_to(top).as_posix()
    with Repo(str(top)) as repo, suppress(DvcException):  # no commit yet
        changes = repo.params.diff().get("diff", {}).get(file, {})
        rows = [
            {"setting": name, "committed": json.dumps(at["old"]), "now": json.dumps(at["new"])}
            for name, at in changes.items()
        ]
        if rows:
            description = f"`{file}` against the last commit"
            create_table_artifact(rows, key(recipe, "settings"), description)


def show_links(recipe: str, folder: Path, top: Path) -> None:
    """Lead to where MLflow shows the recipe's training, and the version that it registered."""
    if not (top / "nanogpt").is_dir():
        return  # other stages than ours
    words = ("-m", "nanogpt.commands", "report", "--json", f"--recipe={folder.relative_to(top)}")
    pages = json.loads(_say(*words, top=top))["pages"]
    if pages:
        lines = "\n".join(f"- [{name}]({address})" for name, address in pages.items())
        create_markdown_artifact(
            f"{lines}\n\n`make ui` starts the page of this machine.",
            key(recipe, "mlflow"),
            "the training in MLflow",
        )


def show_failure(recipe: str, stage: Stage, top: Path, last: str) -> None:
    """Show how a stage ended, and the command that does it again."""
    where = "" if top == root() else f"cd {shlex.quote(str(top))} && "
    again = f"{where}{shlex.join(command(stage))}"
    fence = "`" * (3 + max((len(run) for run in re.findall("`+", last)), default=0))
    create_markdown_artifact(
        f"The last lines of `{stage.name}`:\n\n{fence}text\n{last}\n{fence}\n\n"
        f"The same once more, at the repository's root:\n\n```sh\n{again}\n```\n",
        key(recipe, stage.name, "failed"),
        f"`{stage.name}` failed",
    )


def key(*words: str) -> str:
    """A key that Prefect takes: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


def _figures(file: Path) -> Iterator[tuple[str, Any]]:
    for name, value in flatten(json.loads(file.read_bytes())).items():
        yield name, float(f"{value:.6g}") if isinstance(value, float) else value


def _say(*words: str, top: Path) -> str:
    """What a python command prints that is run at the root `top`."""
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=top, env=dvc_environment(), capture_output=True, check=True)
    return done.stdout.decode().strip()
