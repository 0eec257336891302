"""What a stage made, as artifacts on the page of the flow's run.

Figures become a table, Markdown stays Markdown, and plots become pictures. All of it is read from
the files that dvc.yaml names.
"""

import base64
import csv
import html
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
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from pipelines.graph import Plot, Stage, dvc_environment, root
from pipelines.repro import command

WIDTH, HEIGHT, LEFT, BELOW = 720, 360, 70, 30  # of a picture and its margins, in pixels
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756")
Line = list[tuple[float, float]]


def show_results(recipe: str, stage: Stage, top: Path) -> None:
    """Show what a stage has made below `top`: figures, texts and plots, under stable keys."""
    for file in stage.metrics:
        rows = [{"figure": name, "value": value} for name, value in _figures(top / file)]
        create_table_artifact(rows, key(recipe, stage.name), f"`{file}`")
    for file in stage.texts:
        text = (top / file).read_text(encoding="utf-8")
        create_markdown_artifact(text, key(recipe, Path(file).stem), f"`{file}`")
    pictures = []
    for plot in stage.plots:
        lines = {column: _points(top / file, plot.x, column) for file, column in plot.y}
        address = "data:image/svg+xml;base64," + base64.b64encode(draw(plot, lines)).decode()
        pictures.append(f"## {plot.name}\n\n![{plot.name}]({address})\n")
    if pictures:
        create_markdown_artifact("\n".join(pictures), key(recipe, stage.name, "curves"), "by step")


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
    words = ["-m", "nanogpt.commands", "report", "--json", f"--recipe={folder.relative_to(top)}"]
    done = subprocess.run(
        [sys.executable, *words], cwd=top, env=dvc_environment(), capture_output=True, check=True
    )
    pages = json.loads(done.stdout)["pages"]
    if pages:
        lines = "\n".join(f"- [{name}]({address})" for name, address in pages.items())
        create_markdown_artifact(
            f"{lines}\n\n`nanogpt ui` starts the page of this machine.",
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
    todo: list[tuple[str, Any]] = [("", json.loads(file.read_bytes()))]
    while todo:
        name, value = todo.pop(0)
        if isinstance(value, dict):
            todo[:0] = [(f"{name}.{k}".lstrip("."), v) for k, v in value.items()]
        else:
            yield name, float(f"{value:.6g}") if isinstance(value, float) else value


def _points(file: Path, x: str, y: str) -> Line:
    with file.open(encoding="utf-8", newline="") as table:
        # a step may lack a column, as no validation follows each
        return [(float(row[x]), float(row[y])) for row in csv.DictReader(table) if row[y]]


def draw(plot: Plot, lines: dict[str, Line]) -> bytes:
    """An SVG of the lines, with the range of both axes and a legend."""
    points = [point for line in lines.values() for point in line if abs(point[1]) < float("inf")]
    xs, ys = [x for x, _ in points] or [0.0], [y for _, y in points] or [0.0]
    wide, high = WIDTH - LEFT - 20, HEIGHT - BELOW - 20
    span_x, span_y = (max(xs) - min(xs)) or 1, (max(ys) - min(ys)) or 1

    def at(x: float, y: float) -> str:
        across, down = (x - min(xs)) / span_x, (max(ys) - y) / span_y
        return f"{LEFT + wide * across:.1f},{20 + high * down:.1f}"

    base = HEIGHT - BELOW
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<path d="M{LEFT},20V{base}H{WIDTH - 20}" fill="none" stroke="#888"/>',
        _text(LEFT - 8, 26, f"{max(ys):.4g}", "end"),
        _text(LEFT - 8, base, f"{min(ys):.4g}", "end"),
        _text(LEFT, base + 18, f"{min(xs):g}"),
        _text(WIDTH - 20, base + 18, f"{plot.x} {max(xs):g}", "end"),
        _text(LEFT + 8, 16, plot.label),
    ]
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(at(x, y) for x, y in line if abs(y) < float("inf"))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(WIDTH - 24, 34 + 18 * number, name, "end", colour))
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    style = 'font-family="sans-serif" font-size="13"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(parts)}</svg>'
    return svg.encode()


def _text(x: float, y: float, words: str, anchor: str = "start", colour: str = "#333") -> str:
    place = f'x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{html.escape(words)}</text>"
