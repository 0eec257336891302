"""Read all settings, and the files of one's own that they name; it always runs, in a second.

    python -m nanogpt.stages.check params.yaml

DVC looks at the settings and files that a stage lists. Here all of them are read: a value under
`machine:` that cannot be, a prompt that is not there or a device that this machine lacks is told
before anything is fetched or trained. The digests of one's own texts, base and prompt are written
to `inputs/`, so that what depends on them runs again when they were edited.
"""

import hashlib
import json
import os
from pathlib import Path

from nanogpt.common.command import run_stage
from nanogpt.common.errors import UserError
from nanogpt.common.files import write_text
from nanogpt.common.groups import thread_count
from nanogpt.common.secrets import holds_secret, public
from nanogpt.formats.base import open_base
from nanogpt.settings import Settings, load
from nanogpt.sizing.digests import KNOWN, Digests, of_files, of_texts
from nanogpt.sources import bases, corpora
from nanogpt.sources.fetch import Files
from nanogpt.sources.hub import model_files
from nanogpt.text.prompt import read_prompt
from nanogpt.text.raw import open_raw
from nanogpt.tracking import client


def main(settings: Settings) -> None:
    prompt = read_prompt(settings.sample)
    client.check()  # what it would refuse after hours
    machine = settings.machine
    thread_count(machine.threads)
    if {"auto"} != {machine.device, machine.dtype, machine.processes}:
        from nanogpt.machine import distributed  # torch takes its time

        distributed.pick_compute(machine, distributed.pick_device(machine))
        distributed.process_count(machine, settings.train.batch_size)
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    if tracking.startswith(("postgresql", "mysql", "mssql")):
        print(
            "check: MLFLOW_TRACKING_URI names a database, so models stay on this machine's disk;"
            " for others to have them it takes a server (docs/team.md)"
        )
    if holds_secret(tracking):
        print(
            "check: MLFLOW_TRACKING_URI holds a password, which messages of MLflow may show; for a"
            " server it belongs in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    own = {"corpus": _corpus(settings)} | {
        name: _base(name, settings) for name in settings.download.bases
    }
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    inputs = settings.path("inputs")
    inputs.mkdir(parents=True, exist_ok=True)
    write_text(inputs / "download.json", json.dumps(own, indent=1, sort_keys=True) + "\n")
    write_text(inputs / "prompt.json", json.dumps({"prompt": digest}) + "\n")


def _corpus(settings: Settings) -> Digests:
    """One's own texts, by their names in raw/corpus: below their nearest common folder."""
    parts = settings.download.parts
    try:
        found = [corpora.find(name, field) for name, field in parts]
    except UserError as error:
        raw = open_raw(settings.path("raw")) if settings.path("raw").exists() else None
        if not raw or [part.name for part in raw.parts] != [public(name) for name, _ in parts]:
            raise
        _missing(error)
        return {file.name.removeprefix("corpus/"): file.sha256 for file in raw.files}
    for (name, _), corpus in zip(parts, found, strict=True):
        corpora.check_talks(name, corpus)
    return of_texts(settings, found)


def _base(name: str, settings: Settings) -> Digests:
    """The files of a base of one's own: a folder's, or one .gguf."""
    try:
        source = bases.find(name).source
    except UserError as error:
        base = open_base(settings.path("base")) if settings.path("base").exists() else None
        if not base or base.name != name:
            raise
        _missing(error)
        files = [file for file in base.files if file.name.endswith(".gguf")] or base.files
        return {file.name: file.sha256 for file in files}
    if isinstance(source, bases.Folder):
        try:
            names = model_files(source.path, {p.name for p in source.path.iterdir() if p.is_file()})
        except UserError as error:
            raise UserError(f"download.base: {name}: {error}") from None
        return of_files((source.path / name for name in names), settings.path(KNOWN))
    paths = map(Path, source.paths) if isinstance(source, Files) else ()
    return of_files(paths, settings.path(KNOWN))


def _missing(error: UserError) -> None:
    """What was downloaded once is still there: in an experiment's own copy, or after `dvc pull`."""
    print(f"check: {str(error).partition(chr(10))[0]}; going on with what was downloaded of it")


if __name__ == "__main__":
    run_stage(load, main)
