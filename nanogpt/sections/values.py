"""The kinds of values that settings may have."""

from typing import Annotated, Literal

from pydantic import Field

Positive = Annotated[int, Field(ge=1, le=2**53)]
Size = Annotated[int, Field(ge=1, le=2**24)]  # the square of a larger one is no number of bytes
Count = Annotated[int, Field(ge=0, le=2**53)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]  # no path holds \0
Auto = Literal["auto"]
TINY = 1e-6  # logits divided by less are infinite
