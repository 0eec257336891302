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
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from nanogpt.common.errors import UserError
from nanogpt.common.files import whole_folder
from nanogpt.common.place import CODE
from nanogpt.formats.gguf.file import write as write_gguf_file
from nanogpt.formats.weights import hub_tensors, load_model
from nanogpt.sources.fetch import SourceError
from nanogpt.tracking.fetch import download_registered

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
    """
    with tempfile.TemporaryDirectory() as temporary:
        if model.startswith("models:"):
            print(f"asking MLflow for {model} ...", file=sys.stderr, flush=True)
            try:
                folder = download_registered(model, Path(temporary))
            except (SourceError, UserError) as error:
                raise UserError(f"{model}: {error}") from None
            yield model.removeprefix("models:/").partition("@")[0].partition("/")[0], folder
        elif (Path(model) / "config.json").exists():
            folder = Path(model).resolve()
            yield folder.parent.name if folder.name == "model" else folder.name, Path(model)
        else:
            raise UserError(
                f"{model} is neither a folder with a config.json nor a model in MLflow's"
                " registry, models:/<name>@<alias> or models:/<name>/<version>"
            )


def write_hf(folder: Path, out: Path, dtype: str) -> None:
    """Copy a model directory, with its weights in one file and in `dtype`."""
    model = load_model(folder)
    tensors = hub_tensors(model.config, dict(model.named_parameters()))
    kind = DTYPES["hf"][dtype]
    with _replace(out, "config.json") as partial:
        kept = shutil.ignore_patterns(*WEIGHTS)
        for path in folder.iterdir():
            if path.is_dir():
                shutil.copytree(path, partial / path.name)
            elif not kept(str(folder), [path.name]):
                shutil.copyfile(path, partial / path.name)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config |= {"torch_dtype": str(kind).removeprefix("torch.")}
        config.pop("dtype", None)  # transformers 5's name of the same
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (partial / "config.json").write_text(text, encoding="utf-8")
        stored = {name: tensor.to(kind).contiguous() for name, tensor in tensors.items()}
        try:
            save_file(stored, partial / "model.safetensors", {"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{out} cannot be written: {error}") from None


def write_gguf(folder: Path, path: Path, dtype: Any) -> None:
    """Write a model directory as one GGUF file."""
    model = load_model(folder)
    tensors = hub_tensors(model.config, dict(model.named_parameters()))
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}  # views
    tokenizer_json = (folder / "tokenizer.json").read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gguf_file(path, model.config, arrays, tokenizer_json, dtype, _chat_template(folder))


def write_peft(folder: Path, out: Path) -> None:
    """Copy the adapters that a training by LoRA left beside its model."""
    if not (folder / "adapter" / ADAPTER).exists():
        raise UserError(f"{folder} has no adapter/: it was not trained with train.lora")
    with _replace(out, ADAPTER) as partial:
        shutil.copytree(folder / "adapter", partial, dirs_exist_ok=True)


@contextmanager
def _replace(out: Path, mark: str) -> Iterator[Path]:
    """A folder to fill that takes the place of `out`, which may be an earlier export."""
    if out.exists() and not (out / mark).exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"--out {out} is there, and no earlier export; name a folder of its own")
    with whole_folder(out.resolve()) as partial:
        yield partial


def _chat_template(folder: Path) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    about = folder / "tokenizer_config.json"
    config = json.loads(about.read_text(encoding="utf-8")) if about.exists() else {}
    template = config.get("chat_template")
    return template if isinstance(template, str) else None


def write(model: str, format: str, dtype: str | None, out: Path | None) -> Path:
    """Write `model`, a directory or `models:/...`; returns the folder or the file.

    Raises:
        UserError: there is no such model, it cannot be written so, or `out` is something else's.
    """
    if format not in DTYPES:
        raise UserError(f"--format {format!r} is not known; known: {', '.join(DTYPES)}")
    known = list(DTYPES[format])
    if dtype and dtype not in known:
        choices = f"known: {', '.join(known)}" if known else "the adapters are copied"
        raise UserError(f"--dtype {dtype!r} is not for --format {format}; {choices}")
    dtype = dtype or next(iter(known), "")
    with open_model(model) as (name, folder):
        out = out or CODE / "exports" / name / format
        if format == "gguf":
            out /= f"{name}-{dtype}.gguf"
            write_gguf(folder, out, dtype)
        elif format == "peft":
            write_peft(folder, out)
        else:
            write_hf(folder, out, dtype)
    return out
