"""The settings of a recipe, by section: what each key may be, and what does not go together.

    settings = parse({"seed": 1337, "train": {...}, ...})

No field has a default: what a recipe does stands in its file, where DVC can see a change.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1)]
Auto = Literal["auto"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Download(Section):
    corpus: Name
    text_field: Name
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    base: Name | Annotated[list[Name], Field(min_length=1)] | None

    @property
    def bases(self) -> list[str]:
        """The base models to try, in this order; none: the model starts from nothing."""
        return [self.base] if isinstance(self.base, str) else self.base or []


class Tokenize(Section):
    tokenizer: Literal["char", "gpt2", "base"]
    val: Annotated[float, Field(gt=0, lt=1)]
    test: Share
    seed: Seed

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test = {self.val + self.test:g} leaves nothing to train on")
        return self


class Window(Section):
    """All that is to be said of a model whose shape comes with its base."""

    context: Positive
    dropout: Share


class Model(Window):
    architecture: Literal["gpt2", "llama", "qwen3"]
    n_layer: Positive
    n_head: Positive
    n_kv_head: Positive
    n_embd: Positive
    n_inner: Positive
    bias: bool
    tied: bool

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if self.n_head % self.n_kv_head:
            raise ValueError(
                f"n_head {self.n_head} is not a multiple of n_kv_head {self.n_kv_head}"
            )
        if self.architecture == "gpt2":
            if self.n_kv_head != self.n_head:
                raise ValueError("gpt2 has no grouped heads: n_kv_head must equal n_head")
        else:
            if self.bias:
                raise ValueError(f"{self.architecture} has no biases: bias must be false")
            if self.n_embd // self.n_head % 2:
                raise ValueError("rotary embedding needs an even n_embd / n_head")
        return self


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021), named as peft names them."""

    rank: Positive
    alpha: Rate
    targets: Literal["all-linear"] | Annotated[list[Name], Field(min_length=1)]


class Train(Section):
    steps: Count
    batch_size: Positive
    optimizer: Literal["muon", "adamw"]
    learning_rate: Rate
    muon_learning_rate: Rate
    muon_momentum: Share
    weight_decay: Annotated[float, Field(ge=0)]
    beta1: Share
    beta2: Share
    grad_clip: Annotated[float, Field(ge=0)]
    lora: Lora | None
    schedule: Literal["wsd", "cosine", "constant"]
    warmup_steps: Count
    decay_steps: Count
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)]
    eval_interval: Positive
    log_interval: Positive
    patience: Positive | None
    max_minutes: Rate | None
    max_skips: Positive

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.lora and self.optimizer != "adamw":
            raise ValueError("lora is trained with optimizer: adamw")
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} is longer than the run of {self.steps} steps"
            )
        if self.schedule == "wsd" and self.warmup_steps + self.decay_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} + decay_steps {self.decay_steps}"
                f" is longer than the run of {self.steps} steps"
            )
        if self.schedule == "cosine" and self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"decay_steps {self.decay_steps}, where the cosine ends, must be after"
                f" warmup_steps {self.warmup_steps}"
            )
        return self


class Sample(Section):
    prompt: str
    prompt_file: str | None
    samples: Positive
    tokens: Positive
    temperature: Annotated[float, Field(ge=0)]
    top_k: Positive | None
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    seed: Seed


class Machine(Section):
    device: Literal["auto", "cpu", "cuda", "mps"]
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    compile: Auto | bool
    processes: Auto | Positive
    parallel: Literal["auto", "ddp", "fsdp"]
    nodes: Positive | Annotated[str, Field(pattern="^[1-9][0-9]*:[1-9][0-9]*$")]
    rendezvous: Annotated[str, Field(pattern="^[^:]+:[0-9]+$")] | None
    micro_batch: Auto | Positive
    activation_checkpointing: bool
    pad_vocabulary: Auto | Positive
    threads: Auto | Positive


class Settings(Section):
    """The settings of a recipe; of one that starts from nothing they are `FromScratch`."""

    code: Name
    data: Name
    seed: Seed
    download: Download
    tokenize: Tokenize
    model: Window
    train: Train
    sample: Sample
    machine: Machine

    @field_validator("data")
    @classmethod
    def names_a_recipe(cls, data: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", Path(data).name):
            raise ValueError("its last part names the recipe: letters, digits, _ . -")
        return data

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.download.bases and self.tokenize.tokenizer != "base":
            raise ValueError(
                f"tokenize.tokenizer: {self.tokenize.tokenizer!r}: the tokenizer comes with"
                " download.base, so this must be 'base'"
            )
        if not self.download.bases:
            if self.tokenize.tokenizer == "base":
                raise ValueError("tokenize.tokenizer: 'base': there is none; name download.base")
            if self.train.lora:
                raise ValueError("train.lora adapts a base model; name download.base")
            if not self.train.steps:
                raise ValueError("train.steps: 0 steps make sense for a download.base alone")
        return self

    @property
    def recipe(self) -> str:
        """Name of the recipe: the last part of `data`."""
        return Path(self.data).name


class FromScratch(Settings):
    model: Model


def parse(values: dict[str, Any]) -> Settings:
    """Settings from what stands in params.yaml; raises pydantic's ValidationError."""
    return settings_type(values).model_validate(values)


def settings_type(values: dict[str, Any]) -> type[Settings]:
    """Which settings these are to be: whether they name a base decides it."""
    download = values.get("download")
    return Settings if isinstance(download, dict) and download.get("base") else FromScratch
