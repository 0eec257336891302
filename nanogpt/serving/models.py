"""A model that answers: with its engine, its chat template and its own defaults."""

import asyncio
import hashlib
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanogpt.common.errors import UserError
from nanogpt.common.files import digest_files, list_files
from nanogpt.formats.weights import load_model, weights_sha256
from nanogpt.generation.engine import Engine
from nanogpt.serving.worker import Worker
from nanogpt.text.talks.template import Template, open_template, template_text
from nanogpt.text.words import tokenizer
from nanogpt.text.words.library import read_object
from nanogpt.text.words.tokenizer import Tokenizer


@dataclass(frozen=True)
class Limits:
    """What one client may ask for, and all of them together."""

    slots: int  # texts of a model that run at once
    queue: int  # texts of a model that wait
    n: int  # texts of a request
    tokens: int  # new ones of a text
    body: int  # bytes of a request
    seconds: float  # of an answer, the time in the queue included
    patience: float  # seconds for which a client may hold up its own request or answer
    grace: float  # seconds for running answers when the server is told to stop


# keys of generation_config.json that change what is drawn, and are not done here
NOT_DONE = {
    *("bad_words_ids", "begin_suppress_tokens", "epsilon_cutoff", "eta_cutoff"),
    *("forced_bos_token_id", "forced_eos_token_id", "guidance_scale", "min_length"),
    *("min_new_tokens", "no_repeat_ngram_size", "num_beams", "penalty_alpha"),
    *("sequence_bias", "stop_strings", "suppress_tokens", "typical_p"),
}
OFF: tuple[Any, ...] = (None, 0, 1, [], {})  # values that ask for nothing
log = logging.getLogger(__name__)


class Defaults(BaseModel):
    """What generation_config.json says of a request that does not."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    do_sample: bool = True
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def heat(self) -> float:
        """The temperature; 0 where the likeliest is to be taken."""
        return self.temperature if self.do_sample else 0.0

    @classmethod
    def read(cls, folder: Path) -> "Defaults":
        """
        Raises:
            UserError: a value cannot be.
        """
        path = folder / "generation_config.json"
        values = read_object(path)
        asked = sorted(k for k, v in values.items() if k in NOT_DONE and v not in OFF)
        if asked:
            log.warning("%s: %s: not done here, and left out", path, ", ".join(asked))
        try:
            return cls.model_validate({k: v for k, v in values.items() if v is not None})
        except ValidationError as error:
            detail = error.errors()[0]
            raise UserError(
                f"{path.name}: {detail['loc'][0]} {detail['input']!r:.50}: {detail['msg']}"
            ) from None


@dataclass(frozen=True, eq=False)
class Model:
    """A version that answers."""

    id: str  # the name that it is asked for with
    version: str  # of the registry; "" of a folder
    fingerprint: str  # OpenAI's `system_fingerprint`: of weights, type and device
    facts: dict[str, Any]  # that /version says of it
    context: int
    tokenizer: Tokenizer
    template: Template | None  # None: it has none
    defaults: Defaults
    slots: int  # texts that run at once
    engine: Engine
    worker: Worker
    since: int = field(default_factory=lambda: int(time.time()))


def open_served(
    id: str,
    folder: Path,
    facts: dict[str, Any],
    loop: asyncio.AbstractEventLoop,
    *,
    device: torch.device,
    compute: torch.dtype,
    limits: Limits,
) -> Model:
    """Read a model directory, which is not needed afterwards, and start its engine.

    Args:
        facts: `version` and what else is known of it.

    Raises:
        UserError: it is no model, or damaged.
    """
    model, encoder = load_model(folder, device, compute), tokenizer.load(folder)
    template = None if template_text(folder) is None else open_template(folder, encoder)
    defaults = Defaults.read(folder)
    stored = folder / "model.safetensors"
    weights = weights_sha256(folder) if stored.exists() else digest_files(list_files(folder))
    engine = Engine(model, encoder, limits.slots)
    multiplied = str(compute).removeprefix("torch.")
    # the same seed draws other texts in another type, or on another kind of device
    known = hashlib.sha256(f"{weights} {multiplied} {device.type}".encode()).hexdigest()
    fingerprint = f"fp_{known[:16]}"
    own = {
        "weights": weights,
        "fingerprint": fingerprint,
        "chat": template is not None,
        "context": model.config.context,
        "compute": multiplied,
        "defaults": {
            "temperature": defaults.heat,
            "top_p": defaults.top_p,
            "top_k": defaults.top_k or None,
            "max_tokens": defaults.max_new_tokens,
        },
        "max_tokens": limits.tokens,
    }
    return Model(
        id,
        facts["version"] or "",
        fingerprint,
        {"id": id, **facts, **own},
        model.config.context,
        encoder,
        template,
        defaults,
        limits.slots,
        engine,
        Worker(engine, loop),
    )
