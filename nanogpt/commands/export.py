"""Write a trained model for other programs: a Hugging Face repository, GGUF, or its adapters.

nanogpt export data/shakespeare/model                      # hf, in float32
nanogpt export models:/nanogpt-shakespeare@champion --format gguf --dtype Q8_0
nanogpt export data/finetune_shakespeare/model --format peft --out adapters
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from nanogpt.commands.record import RECORD, check_free, keep
from nanogpt.common.errors import NotNow, UserError
from nanogpt.common.files import whole_folder
from nanogpt.common.place import CODE
from nanogpt.common.progress import filling
from nanogpt.common.recipe import did_you_mean
from nanogpt.formats.gguf.file import write as write_gguf_file
from nanogpt.formats.weights import hub_tensors, load_model
from nanogpt.proof.signature import SIGNATURE
from nanogpt.proof.statement import PROVENANCE
from nanogpt.sources.fetch import SourceError
from nanogpt.sources.hub import PICKLES
from nanogpt.text.talks.template import template_text
from nanogpt.tracking.versions.fetch import download_registered
from nanogpt.tracking.versions.names import PREFIX, name_of

DTYPES: dict[str, Any] = {  # the first is taken where none is named
    "hf": {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    "gguf": dict.fromkeys(("F16", "F32", "Q8_0")),
    "peft": {},
}
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "*.gguf")
ADAPTER = "adapter_config.json"


@contextmanager
def open_model(model: str) -> Iterator[tuple[str, Path]]:
    """A name for `model` and its folder, which is fetched for the while if it is a `models:/…`.

    Raises:
        UserError: there is no such model.
        NotNow: MLflow does not answer.
    """
    with tempfile.TemporaryDirectory() as temporary:
        if model.startswith("models:"):
            print(f"asking MLflow for {model} ...", file=sys.stderr, flush=True)
            try:
                with filling(Path(temporary), None, "download"):
                    folder = download_registered(model, Path(temporary))
            except (SourceError, UserError) as error:
                passing = isinstance(error, SourceError) and error.passing
                raise (NotNow if passing else UserError)(f"{model}: {error}") from None
            yield name_of(model), folder
        elif (Path(model) / "config.json").exists():
            folder = Path(model).resolve()
            yield folder.parent.name if folder.name == "model" else folder.name, Path(model)
        else:
            raise UserError(
                f"{model} is neither a folder with a config.json nor a model in MLflow's"
                " registry, models:/<name>@<alias> or models:/<name>/<version>"
                + (f"; did you mean models:/{model}?" if model.startswith(PREFIX) else "")
            )


def write_hf(folder: Path, out: Path, dtype: str) -> None:
    """Copy a model directory, with its weights in one file and in `dtype`."""
    model = load_model(folder)
    tensors = hub_tensors(model.config, dict(model.named_parameters()))
    kind = DTYPES["hf"][dtype]
    stored = {name: tensor.to(kind).contiguous() for name, tensor in tensors.items()}
    for name, tensor in stored.items():
        if not tensor.isfinite().all():
            largest = tensors[name].abs().max().item()
            other = "BF16" if dtype == "F16" else "F32"
            raise UserError(
                f"{name} has a value of {largest:,.0f}, too large for {dtype}; export it with"
                f" --dtype {other}"
            )
    names = shared_files(folder)
    if SIGNATURE in names:
        proof = f"{PROVENANCE} and {SIGNATURE}, which are of the signed folder's own files"
        print(f"left out: {proof}", file=sys.stderr)
        names = [name for name in names if name not in (PROVENANCE, SIGNATURE)]
    with _replace(out, "hf") as partial:
        for name in names:
            if not any(fnmatch(name, pattern) for pattern in WEIGHTS):
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, partial / name)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config |= {"torch_dtype": str(kind).removeprefix("torch.")}
        config.pop("dtype", None)  # transformers 5's name of the same
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (partial / "config.json").write_text(text, encoding="utf-8")
        size = sum(tensor.nbytes for tensor in stored.values())
        try:
            with filling(partial, size, "export"):
                save_file(stored, partial / "model.safetensors", {"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{out} cannot be written: {error}") from None


def write_gguf(folder: Path, path: Path, dtype: Any) -> None:
    """Write a model directory as one GGUF file."""
    model = load_model(folder)
    tensors = hub_tensors(model.config, dict(model.named_parameters()))
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}  # views
    try:
        tokenizer_json = (folder / "tokenizer.json").read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise UserError(f"{folder} has no tokenizer.json that can be read: {error}") from None
    write_gguf_file(path, model.config, arrays, tokenizer_json, dtype, template_text(folder))
    keep(path.parent, "gguf", path.name)


def write_peft(folder: Path, out: Path) -> None:
    """Copy the adapters that a training by LoRA left beside its model."""
    if not (folder / "adapter" / ADAPTER).exists():
        raise UserError(f"{folder} has no adapter/: it was not trained with train.lora")
    with _replace(out, "peft") as partial:
        shutil.copytree(folder / "adapter", partial, dirs_exist_ok=True)


def shared_files(folder: Path) -> list[str]:
    """The files of a model's folder that may leave it, by name; says which others there are.

    Hidden ones (`.git`, `.env`) are their owner's, and a pickle can run any code when it is read.
    """
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    stay = [p for p in paths if p.suffix in PICKLES or any(part[0] == "." for part in p.parts)]
    told = [path.as_posix() for path in stay if path.name != RECORD]
    if told:
        more = f" and {len(told) - 3:,} more" if len(told) > 3 else ""
        print(f"left out, as hidden or a pickle: {', '.join(told[:3])}{more}", file=sys.stderr)
    return [path.as_posix() for path in paths if path not in {*stay}]


@contextmanager
def _replace(out: Path, format: str) -> Iterator[Path]:
    """A folder to fill that takes the place of `out`, which may be an earlier export."""
    with whole_folder(out.resolve()) as partial:
        yield partial
        keep(partial, format)
        check_free(out, format)  # once more: the work may have taken minutes


def write(model: str, format: str, dtype: str | None, out: Path | None) -> Path:
    """Write `model`, a directory or `models:/...`; returns the folder or the file.

    Raises:
        UserError: there is no such model, it cannot be written so, or `out` is something else's.
    """
    if format not in DTYPES:
        meant = did_you_mean(format, DTYPES)
        raise UserError(f"--format {format!r} is not known; known: {', '.join(DTYPES)}{meant}")
    known = list(DTYPES[format])
    if dtype and dtype not in known:
        choices = f"known: {', '.join(known)}" if known else "the adapters are copied"
        raise UserError(f"--dtype {dtype!r} is not for --format {format}; {choices}")
    dtype = dtype or next(iter(known), "")
    with open_model(model) as (name, folder):
        out = out or CODE / "exports" / name / format
        if out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--out {out} is in the model's own folder; name another")
        file = f"{name}-{dtype}.gguf" if format == "gguf" else None
        check_free(out, format, file)
        if file:
            out /= file
            write_gguf(folder, out, dtype)
        elif format == "peft":
            write_peft(folder, out)
        else:
            write_hf(folder, out, dtype)
    return out
