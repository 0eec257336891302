"""The best weights of a training → a model directory: a Hugging Face repository with its card."""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from nanogpt.common.files import whole_folder
from nanogpt.common.secrets import without_folder
from nanogpt.formats.base import Base
from nanogpt.formats.weights import save_model
from nanogpt.model import GPT
from nanogpt.settings import Settings
from nanogpt.text.tokens import Tokens
from nanogpt.trainer import Progress
from nanogpt.training import lora, texts
from nanogpt.training.start import initial_model

SCRIPTS = 3  # that a card names
# keys of tokenizer_config.json, which transformers fills with paths and does not need
PLACES = ("name_or_path", "tokenizer_file", "special_tokens_map_file")


def publish(
    settings: Settings,
    tokens: Tokens,
    base: Base,
    best: Mapping[str, Tensor],
    progress: Progress,
) -> None:
    """Write the recipe's `model/`, whole or not at all: weights, tokenizer and card.

    Adapters are folded into the weights, and kept in `adapter/` as `peft` reads them.

    Args:
        base: manifest of the base model.
        best: the parameters that were trained, by our names.
    """
    model = initial_model(settings, tokens, settings.path("base"))
    with torch.no_grad():
        for name, tensor in best.items():
            model.get_parameter(name).copy_(tensor)
    with whole_folder(settings.path("model")) as folder:
        if settings.train.lora:
            (folder / "adapter").mkdir()
            found = findable(base)
            lora.write_adapter(folder / "adapter", model.config, settings.train.lora, best, *found)
            lora.merge(model)
        save_model(folder, model.config, dict(model.named_parameters()))
        for path in tokens.tokenizer_files():
            _copy_tokenizer(path, folder / path.name)
        _write_card(folder, settings, tokens, base, model, progress)


def _copy_tokenizer(path: Path, copy: Path) -> None:
    """Copy a file of a tokenizer; that of a base may say where its maker's own files lay."""
    if path.name == "tokenizer_config.json":
        values = json.loads(path.read_bytes())
        kept = {key: value for key, value in values.items() if key not in PLACES}
        if kept != values:
            copy.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
            return
    shutil.copyfile(path, copy)


def findable(base: Base) -> tuple[str, str | None]:
    """By which name, and at which commit, the hub has a base; else its name in the settings."""
    commit = re.fullmatch(r"hf:[^@]+@([0-9a-f]{40})", base.source or "")
    return base.hub_id or without_folder(str(base.name)), commit[1] if commit else None


def data_sets(corpora: Iterable[str]) -> str:
    """The lines of a card's head that name those corpora which the hub has; "": it has none."""
    found = (re.match("hf:([^:@]+)", name) for name in corpora)
    names = dict.fromkeys(each[1] for each in found if each)  # each once, be it in several parts
    return "".join(("datasets:\n", *(f"- {name}\n" for name in names))) if names else ""


@dataclass(frozen=True)
class Made:
    """What the card of a model directory says of its training."""

    context: int  # tokens in a window
    apart: bool  # whether no document saw another there
    tokens: str  # digest of the tokens
    based: bool  # whether it went on from a base
    talks: bool  # whether it learned from conversations


def made(folder: Path) -> Made | None:
    """Read the card that `publish` wrote; None: there is no such card."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    context = re.search(
        r"^\| context \| .* trained in windows of ([\d,]+)( of whole documents)? \|$",
        text,
        re.MULTILINE,
    )
    tokens = re.search(r"^\| tokens \| `([0-9a-f]{64})` \|$", text, re.MULTILINE)
    if not context or not tokens:
        return None
    talks = "\n| documents | conversations" in text
    return Made(
        int(context[1].replace(",", "")), bool(context[2]), tokens[1], "\n| base `" in text, talks
    )


def _write_card(
    folder: Path,
    settings: Settings,
    tokens: Tokens,
    base: Base,
    model: GPT,
    progress: Progress,
) -> None:
    """Write a model directory's `README.md`; no times, no ids: same training, same bytes."""
    made_of = settings.model_dump(include={"seed", "model", "train"})  # what `train` depends on
    data, step_tokens = tokens.manifest, settings.train.batch_size * settings.model.context
    head: dict[str, str | None] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
    }
    apart = settings.train.packing == "documents"
    bits = partial(texts.bits, tokens, apart)
    windows = f"{settings.model.context:,}"
    if apart:
        windows += " of whole documents"
    train = data.splits["train"]
    letters = [f"{name} {share:.1%}" for name, share in data.profile.letters.items()]
    scripts = f"letters {', '.join(letters[:SCRIPTS])}" if letters else "no letters"
    rows = lineage = ""
    if any(part.conversations for part in data.parts):
        rows = f"| documents | conversations; loss on: {settings.train.loss_on} |\n"
    if base.name:
        # the hub accepts only its own names of licences
        known = {"MIT": "mit", "Apache-2.0": "apache-2.0"}
        head |= {"base_model": base.hub_id, "license": known.get(base.licence or "")}
        rows += f"| that of the base, before | {bits(progress.first_loss):.4f} bits per byte |\n"
        name, source = without_folder(base.name), without_folder(base.source or "")
        rows += f"| base | `{name}`, from {source} ({base.licence}) |\n"
        lineage = f"| base `{name}` | `{base.digest}` |\n"
    about = "".join(f"{key}: {value}\n" for key, value in head.items() if value)
    about += data_sets(part.name for part in data.parts)
    (folder / "README.md").write_text(
        f"""---
{about}---
# {settings.recipe}

A `{model.config.architecture}` language model of {model.parameter_count():,} parameters, trained on
`{data.shown}`.

| | |
|---|---|
| validation | {bits(progress.best_loss):.4f} bits per byte, at step {progress.best_step:,} |
| the same | {progress.best_loss:.4f} nats a token |
{rows}| steps | {settings.train.steps:,} of {step_tokens:,} tokens |
| training tokens | {train.tokens:,} |
| training text | {train.bytes:,} bytes in {train.documents:,} documents, {scripts} |
| vocabulary | {data.vocab_size:,} ({data.tokenizer}) |
| context | {model.config.context:,} tokens, trained in windows of {windows} |

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

## Lineage

| made from | SHA-256 |
|---|---|
{lineage}| corpus | `{data.corpus_digest}` |
| tokens | `{tokens.digest}` |
| tokenizer | `{data.tokenizer_sha256}` |

These settings:

```json
{json.dumps(made_of, indent=1)}
```
""",
        encoding="utf-8",
    )
