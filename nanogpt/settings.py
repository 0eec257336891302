"""params.yaml → typed settings, refused early and clearly.

    settings = load("pipelines/finetune_shakespeare/params.yaml")

What each key may be, and what does not go together. No field has a default: what a recipe does
stands in its file, where DVC can see a change. (The parts of a value may be left out: null says no
more than their absence.)
"""

import os
import re
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, field_validator, model_validator

from nanogpt.common.errors import UserError
from nanogpt.common.plain_yaml import read_yaml
from nanogpt.common.section import Section, mistakes
from nanogpt.sections.model import Model, Window
from nanogpt.sections.running import Machine, Sample
from nanogpt.sections.text import Download, Expect, Fields, TextField, Tokenize
from nanogpt.sections.training import Eval, Lora, Train
from nanogpt.sections.values import Name, Rate, Seed, Share

__all__ = [
    "Download",
    "Eval",
    "Expect",
    "Fields",
    "Lora",
    "Machine",
    "Model",
    "Name",
    "Rate",
    "Sample",
    "Seed",
    "Settings",
    "Share",
    "TextField",
    "Tokenize",
    "Train",
    "Window",
    "load",
    "parse",
]

# MLflow's registry takes no dot, and has one model for all recipes of one name
DATA = re.compile(r"data/[A-Za-z0-9][A-Za-z0-9_-]{,99}")


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
        if self.train.weights and len(self.train.weights) != (parts := len(self.download.parts)):
            raise ValueError(f"train.weights: one for each corpus, of which there are {parts}")
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
