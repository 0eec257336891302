"""params.yaml → typed settings, refused early and clearly.

    settings = load("pipelines/finetune_shakespeare/params.yaml")

What each key may be, and what does not go together. No field has a default: what a recipe does
stands in its file, where DVC can see a change.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from nanogpt.common.errors import UserError
from nanogpt.common.plain_yaml import read_yaml
from nanogpt.common.secrets import holds_secret
from nanogpt.common.section import Section, mistakes

Positive = Annotated[int, Field(ge=1, le=2**53)]
Size = Annotated[int, Field(ge=1, le=2**24)]  # the square of a larger one is no number of bytes
Count = Annotated[int, Field(ge=0, le=2**53)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]  # no path holds \0
Auto = Literal["auto"]
# MLflow's registry takes no dot, and has one model for all recipes of one name
DATA = re.compile(r"data/[A-Za-z0-9][A-Za-z0-9_-]{,99}")
TINY = 1e-6  # logits divided by less are infinite


class Download(Section):
    corpus: Name
    text_field: Name
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    base: Name | Annotated[list[Name], Field(min_length=1)] | None

    @field_validator("corpus", "base")
    @classmethod
    def holds_no_secret(cls, value: Any) -> Any:
        if any(map(holds_secret, [value] if isinstance(value, str) else value or [])):
            raise ValueError(
                "a password or token would stand in dvc.lock and in MLflow; for https keep it in"
                " ~/.netrc, for s3: and gs: in the environment, or fetch the file yourself"
            )
        return value

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
    """The keys of a model whose shape comes with its base."""

    context: Size
    dropout: Share

    @classmethod
    def unknown(cls, key: str, meant: str) -> str:
        if cls is Window and key in Model.model_fields:
            return "comes with download.base; leave it out, or set that to null"
        return super().unknown(key, meant)


class Model(Window):
    architecture: Literal["gpt2", "llama", "qwen3"]
    n_layer: Annotated[int, Field(ge=1, le=1000)]
    n_head: Size
    n_kv_head: Size
    n_embd: Size
    n_inner: Size
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

    rank: Size
    alpha: Rate
    targets: Literal["all-linear"] | Annotated[list[Name], Field(min_length=1)]


class Train(Section):
    steps: Count
    batch_size: Size
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
        longer = f"is longer than the run of {self.steps} steps"
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} {longer}")
        if self.schedule == "wsd" and self.warmup_steps + self.decay_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} + decay_steps {self.decay_steps} {longer}"
            )
        if self.schedule == "cosine" and self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"decay_steps {self.decay_steps}, where the cosine ends, must be after"
                f" warmup_steps {self.warmup_steps}"
            )
        return self


class Eval(Section):
    """By which rule a model becomes the champion; scores do not depend on it."""

    block: Size  # UTF-8 bytes
    confidence: Annotated[float, Field(gt=0, lt=1)]
    least_gain: Share


class Sample(Section):
    prompt: str
    prompt_file: Name | None
    samples: Size
    tokens: Size
    temperature: Annotated[float, Field(ge=0)]
    top_k: Positive | None
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    seed: Seed

    @model_validator(mode="after")
    def check(self) -> Self:
        if 0 < self.temperature < TINY:
            raise ValueError(f"temperature {self.temperature}: 0 takes the likeliest token")
        if self.top_p is not None and self.top_p < TINY:
            raise ValueError(f"top_p {self.top_p}: top_k 1 keeps the likeliest token alone")
        return self


class Machine(Section):
    device: Literal["auto", "cpu", "cuda", "mps"]
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    compile: Auto | bool
    deterministic: bool
    processes: Auto | Size
    parallel: Literal["auto", "ddp", "fsdp"]
    nodes: Size | Annotated[str, Field(pattern="^[1-9][0-9]{0,3}:[1-9][0-9]{0,3}$")]
    rendezvous: Annotated[str, Field(pattern="^[^:]+:[0-9]+$")] | None
    micro_batch: Auto | Size
    activation_checkpointing: bool
    threads: Auto | Size

    @property
    def machines(self) -> tuple[int, int]:
        """The fewest and the most that train together."""
        fewest, _, most = str(self.nodes).partition(":")
        return int(fewest), int(most or fewest)

    @model_validator(mode="after")
    def check(self) -> Self:
        fewest, most = self.machines
        if fewest > most:
            raise ValueError(f"nodes {self.nodes!r} should be fewest:most, such as '1:2'")
        if most > 1 and self.rendezvous is None:
            raise ValueError(f"nodes {self.nodes} need rendezvous: host:port of the first of them")
        if self.rendezvous and not 0 < int(self.rendezvous.rpartition(":")[2]) < 2**16:
            raise ValueError(f"rendezvous {self.rendezvous!r}: a port is a number from 1 to 65535")
        if (self.device, self.dtype) == ("cpu", "float16"):
            raise ValueError("dtype float16 needs a GPU; a CPU takes float32 or bfloat16")
        return self


class Settings(Section):
    """The settings of a recipe; of one that starts from nothing they are `FromScratch`."""

    root: Name
    params: Name
    data: Name
    seed: Seed
    download: Download
    tokenize: Tokenize
    model: Window
    train: Train
    eval: Eval
    sample: Sample
    machine: Machine

    @field_validator("root", "params")
    @classmethod
    def is_written_plainly(cls, path: str) -> str:
        if os.path.isabs(path) or path != os.path.normpath(path):  # DVC would find it changed
            raise ValueError("should be a relative path without needless parts such as ./")
        return path

    @field_validator("data")
    @classmethod
    def names_a_recipe(cls, data: str) -> str:
        if not DATA.fullmatch(data):
            raise ValueError("should be data/ and a recipe's name: up to 100 letters, digits, _ -")
        return data

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.download.bases and self.tokenize.tokenizer != "base":
            raise ValueError("tokenize.tokenizer: it comes with download.base, so say 'base'")
        processes = 1 if self.machine.processes == "auto" else self.machine.processes
        if self.train.batch_size < (least := processes * self.machine.machines[1]):
            raise ValueError(f"train.batch_size: it is less than the {least} processes to share it")
        if not self.download.bases:
            if self.tokenize.tokenizer == "base":
                raise ValueError("tokenize.tokenizer: 'base': there is none; name download.base")
            if self.train.lora:
                raise ValueError("train.lora adapts a base model; name download.base")
            if not self.train.steps:
                raise ValueError("train.steps: 0 steps make sense for a download.base alone")
        return self

    def path(self, artifact: str) -> Path:
        """Where an artifact is, such as `raw` or `eval.json`, seen from the root."""
        return Path(self.data, artifact)

    @property
    def recipe(self) -> str:
        """Name of the recipe: the last part of `data`."""
        return Path(self.data).name

    @property
    def lock(self) -> Path:
        """Where DVC writes down what each stage of the recipe took and made, seen from the root."""
        return Path(self.params).with_name("dvc.lock")


class FromScratch(Settings):
    model: Model


def parse(values: dict[str, Any]) -> Settings:
    """Settings from what stands in params.yaml; raises pydantic's ValidationError."""
    return _kind(values).model_validate(values)


def load(path: str | Path) -> Settings:
    """Read and check a recipe's settings.

    Raises:
        UserError: there is no such file; DVC would read it otherwise; keys are wrong (their paths,
            values, and what is allowed); or `root` and `params` lead to another file, as in a copy.
    """
    values = read_yaml(path)
    try:
        settings = parse(values)
    except ValidationError as error:
        lines = (f"  {mistake}" for mistake in mistakes(error, _kind(values)))
        raise UserError("\n".join((f"{path}:", *lines))) from None
    meant = Path(path).parent / settings.root / settings.params
    if not meant.exists() or not os.path.samefile(meant, path):
        raise UserError(
            f"{path}:\n  params: {settings.params!r}, seen from root: {settings.root!r}, is another"
            " file than this one; a copied recipe needs its own root, params and data"
        )
    return settings


def _kind(values: dict[str, Any]) -> type[Settings]:
    """Which settings these are to be: whether they name a base decides it."""
    download = values.get("download")
    return Settings if isinstance(download, dict) and download.get("base") else FromScratch
