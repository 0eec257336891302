"""The shape of a model."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nanogpt.common.section import Section
from nanogpt.sections.values import Share, Size


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
