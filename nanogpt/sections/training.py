"""How a model is trained, and by which rule it becomes the champion."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nanogpt.common.section import Section
from nanogpt.sections.values import Count, Name, Positive, Rate, Share, Size


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
    embedding_learning_rate: Rate
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
    packing: Literal["continuous", "documents"]
    loss_on: Literal["all", "assistant"]
    weights: Annotated[list[Rate], Field(min_length=2)] | None

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.loss_on == "assistant" and self.packing != "documents":
            raise ValueError(
                "loss_on: assistant takes conversations whole, each from its start: say packing:"
                " documents"
            )
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
