"""What a model is asked for, and how this machine runs everything."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nanogpt.common.section import Section
from nanogpt.sections.values import TINY, Auto, Name, Positive, Seed, Size


class Sample(Section):
    prompt: str
    prompt_file: Name | None
    samples: Size
    tokens: Size
    temperature: Annotated[float, Field(ge=0)]
    top_k: Positive | None
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    min_p: Annotated[float, Field(gt=0, le=1)] | None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)]
    stop: list[Annotated[str, Field(min_length=1)]]
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
    tokenize_executor: Name

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
        scheduler = re.fullmatch("dask://[^:/]+:([0-9]{1,5})", self.tokenize_executor)
        if self.tokenize_executor != "auto" and not (scheduler and 0 < int(scheduler[1]) < 2**16):
            raise ValueError(
                f"tokenize_executor {self.tokenize_executor!r}: should be auto, or"
                " dask://host:port of Dask's scheduler"
            )
        if (self.device, self.dtype) == ("cpu", "float16"):
            raise ValueError("dtype float16 needs a GPU; a CPU takes float32 or bfloat16")
        return self
