"""What text a model learns from, and how it becomes tokens."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from nanogpt.common.recipe import did_you_mean
from nanogpt.common.secrets import holds_secret
from nanogpt.common.section import Section
from nanogpt.sections.values import Name, Positive, Rate, Seed, Share

# whose languages people may name in their place
COMMON = "Latin", "Cyrillic", "Greek", "Han", "Hiragana", "Hangul", "Arabic", "Devanagari"


class Fields(Section):
    """Columns that hold a conversation, where they are not called `messages`, or `prompt` and
    `completion`."""

    messages: Name | None = None
    prompt: Name | None = None
    completion: Name | None = None

    @model_validator(mode="after")
    def check(self) -> Self:
        if (self.messages is None) == (self.prompt is None and self.completion is None):
            raise ValueError("should name messages alone, or prompt and completion")
        if self.messages is None and not (self.prompt and self.completion):
            raise ValueError("prompt and completion belong together")
        return self


TextField = Name | Annotated[list[Name], Field(min_length=1)] | Fields


class Part(Section):
    """One corpus of several, where its text stands in a field of its own."""

    corpus: Name
    text_field: TextField


class Download(Section):
    corpus: Name | Annotated[list[Name | Part], Field(min_length=2)]
    text_field: TextField
    separator: Annotated[str, Field(min_length=1)] | None
    newlines: Literal["keep", "unix"]
    bad_documents: Literal["refuse", "skip"]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    base: Name | Annotated[list[Name], Field(min_length=1)] | None

    @field_validator("corpus", "base")
    @classmethod
    def holds_no_secret(cls, value: Any) -> Any:
        values = value if isinstance(value, list) else [value]
        if any(holds_secret(getattr(one, "corpus", one) or "") for one in values):
            raise ValueError(
                "a password or token would stand in dvc.lock and in MLflow; for https keep it in"
                " ~/.netrc, for s3: and gs: in the environment, or fetch the file yourself"
            )
        return value

    @model_validator(mode="after")
    def check(self) -> Self:
        names = [name for name, _ in self.parts]
        if again := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"corpus: {again[0]!r} stands there twice; train.weights weighs them")
        if self.sha256 and len(names) > 1:
            raise ValueError("sha256 is that of one corpus; set it to null")
        return self

    @property
    def parts(self) -> list[tuple[str, "TextField"]]:
        """Each corpus, and the field of its text."""
        several = self.corpus if isinstance(self.corpus, list) else [self.corpus]
        return [
            (one, self.text_field) if isinstance(one, str) else (one.corpus, one.text_field)
            for one in several
        ]

    @property
    def bases(self) -> list[str]:
        """The base models to try, in this order; none: the model starts from nothing."""
        return [self.base] if isinstance(self.base, str) else self.base or []


class Expect(Section):
    """What a corpus has to be; a key that is left out asks for nothing."""

    min_documents: Positive | None = None
    min_bytes: Positive | None = None
    min_tokens: Positive | None = None
    max_duplicate_share: Annotated[float, Field(ge=0, le=1)] | None = None
    max_unknown_share: Annotated[float, Field(ge=0, le=1)] | None = None
    min_bytes_per_token: Rate | None = None
    scripts: Annotated[list[Name], Field(min_length=1)] | None = None
    max_other_scripts: Annotated[float, Field(ge=0, le=1)] | None = None  # share of the letters

    @field_validator("scripts")
    @classmethod
    def has_scripts(cls, names: list[str] | None) -> list[str] | None:
        from fontTools.unicodedata import Scripts

        known = sorted(set(Scripts.NAMES.values()) - {"Common", "Inherited", "Unknown"})
        for name in names or []:
            if name not in known:
                raise ValueError(
                    f"{name!r} is no script of Unicode, such as {', '.join(COMMON)}"
                    + did_you_mean(name, known)
                )
        return names

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.max_other_scripts is not None and self.scripts is None:
            raise ValueError("max_other_scripts: other than which? name scripts")
        return self


class Tokenize(Section):
    tokenizer: Literal["char", "bpe", "gpt2", "base"]
    vocab_size: Annotated[int, Field(ge=257, le=2**20)] | None
    near_duplicates: Literal["ignore", "count", "drop"]
    expect: Expect | None
    val: Annotated[float, Field(gt=0, lt=1)]
    test: Share
    seed: Seed

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test = {self.val + self.test:g} leaves nothing to train on")
        if self.tokenizer == "bpe" and self.vocab_size is None:
            raise ValueError("vocab_size: how many entries a bpe is to have, such as 1024")
        if self.tokenizer != "bpe" and self.vocab_size is not None:
            raise ValueError(
                f"vocab_size {self.vocab_size} is of a bpe, and {self.tokenizer!r} brings its own:"
                " set it to null"
            )
        return self
