"""What is asked of one text."""

import hashlib
from dataclasses import dataclass, replace
from typing import Literal, Self

from nanogpt.settings import Sample


@dataclass(frozen=True)
class Options:
    """What is asked of one text; what has a default is off by it.

    Sources: top-p Holtzman et al. 2020; min-p Nguyen et al. 2024; the repetition penalty Keskar et
    al. 2019; presence and frequency penalties OpenAI's API.
    """

    tokens: int  # new ones, at most
    temperature: float  # 0: always the likeliest token
    seed: int
    top_k: int | None = None  # keep the k likeliest tokens
    top_p: float | None = None  # keep the fewest likeliest tokens that hold this share
    min_p: float | None = None  # keep tokens at least this many times as likely as the likeliest
    repetition_penalty: float = 1.0  # above 1: what prompt and text have is less likely
    presence_penalty: float = 0.0  # is taken from the logits of what the new text has
    frequency_penalty: float = 0.0  # the same, for each time it has it
    stop: tuple[str, ...] = ()  # the text ends before the first of these
    logprobs: int | None = None  # n: tell each token's, and of the n likeliest; None: none
    prompt_logprobs: bool = False  # those of the prompt as well
    # at the end of the context: drop the older half and read the rest anew once, or end
    past: Literal["half", "stop"] = "half"

    @classmethod
    def of(cls, sample: Sample) -> Self:
        """Those of a recipe."""
        values = sample.model_dump(exclude={"prompt", "prompt_file", "samples"})
        return cls(**values | {"stop": tuple(sample.stop)})

    def nth(self, index: int) -> Self:
        """Those of another sample of the same: only the seed differs, and of the first it does not.

        The seed of another is the first 32 bits of the SHA-256 of "<seed> <index>".
        """
        if index == 0:
            return self
        digest = hashlib.sha256(f"{self.seed} {index}".encode()).digest()
        return replace(self, seed=int.from_bytes(digest[:4]))
