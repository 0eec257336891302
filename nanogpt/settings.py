"""params.yaml → typed settings, refused early and clearly.

    settings = load("pipelines/finetune_shakespeare/params.yaml")

First what each key may be, section by section, and what does not go together; then how a file is
read. No field has a default: what a recipe does stands in its file, where DVC can see a change.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from nanogpt.common.errors import UserError

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
    """The keys of a model whose shape comes with its base."""

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

    def read_prompt(self) -> str:
        """The prompt, or what its file holds.

        Raises:
            UserError: the file is not there, or not UTF-8.
        """
        if self.prompt_file is None:
            return self.prompt
        try:
            return Path(self.prompt_file).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(
                f"sample.prompt_file: {self.prompt_file!r} does not exist, seen from {Path.cwd()}"
            ) from None
        except UnicodeDecodeError as error:
            raise UserError(
                f"sample.prompt_file: {self.prompt_file!r} is not UTF-8 at byte {error.start}"
            ) from None


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
    threads: Auto | Positive


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
    sample: Sample
    machine: Machine

    @field_validator("data")
    @classmethod
    def names_a_recipe(cls, data: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", Path(data).name):
            raise ValueError("its last part names the recipe: letters, digits, _ . -")
        if Path(data).is_absolute() or ".." in Path(data).parts:
            raise ValueError("should be a folder below the root, and seen from there")
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

    def path(self, artifact: str) -> Path:
        """Where an artifact is, such as `raw` or `eval.json`, seen from the root."""
        return Path(self.data, artifact)

    @property
    def recipe(self) -> str:
        """Name of the recipe: the last part of `data`."""
        return Path(self.data).name


class FromScratch(Settings):
    model: Model


def parse(values: dict[str, Any]) -> Settings:
    """Settings from what stands in params.yaml; raises pydantic's ValidationError."""
    return _kind(values).model_validate(values)


def load(path: str | Path) -> Settings:
    """Read and check a recipe's settings.

    Raises:
        UserError: the file is missing or not YAML; a key is unknown, missing, of the wrong type or
            impossible (the message has every such key's path, its value and what is allowed); or
            `root` and `params` lead to another file, as in a recipe that was copied.
    """
    try:
        # YAML 1.2: `1e-3` is a number, `1:2` and `0010` are what they look like, and a key that
        # stands twice is refused
        values = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist, seen from {Path.cwd()}; name the params.yaml of a recipe"
        ) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {_fault(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings; start from a copy of the repository's own")
    try:
        settings = parse(values)
    except ValidationError as error:
        mistakes: dict[str, list[str]] = {}
        for detail in error.errors():
            place, allowed = _explain(detail, _kind(values))
            mistakes.setdefault(place, []).append(allowed)
        # a value that may be of two types is refused once for each of them: one line for both
        lines = [f"  {place}: " + " or ".join(dict.fromkeys(m)) for place, m in mistakes.items()]
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


def _fault(error: Exception) -> str:
    """What is wrong with a YAML file and where, without the library's advice to programmers."""
    if not isinstance(error, MarkedYAMLError):
        return str(error)
    mark = error.problem_mark
    place = f", in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{str(error.problem).partition(' with value')[0]}{place}"


def _explain(detail: Any, kind: type[Settings]) -> tuple[str, str]:
    """Where a mistake is, with the value that stands there, and what is allowed."""
    if detail["type"] == "extra_forbidden":
        *above, key = detail["loc"]
        section: type[BaseModel] = kind
        for name in above:
            section = _section(section.model_fields[name].annotation) or section
        place = ".".join(detail["loc"])
        if section is Window and key in Model.model_fields:
            return place, "comes with download.base; leave it out, or set that to null"
        return place, f"unknown key; known here: {', '.join(section.model_fields)}"
    # pydantic adds the members of a union to the path: keep what stands in the file
    path = ".".join(key for key in detail["loc"] if key in _keys(kind))
    if detail["type"] == "missing":
        return path, "is missing"
    if detail["type"] == "value_error":
        said = str(detail["ctx"]["error"])
        if not path:  # of all settings: it names its place itself
            place, _, said = said.partition(": ")
            return place, said
        place = path if isinstance(detail["input"], dict) else f"{path}: {detail['input']!r}"
        return place, said
    return f"{path}: {detail['input']!r}", detail["msg"].replace("Input should", "should", 1)


def _keys(section: type[BaseModel]) -> set[str]:
    keys = set(section.model_fields)
    for field in section.model_fields.values():
        if inner := _section(field.annotation):
            keys |= _keys(inner)
    return keys


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, or may hold."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)
