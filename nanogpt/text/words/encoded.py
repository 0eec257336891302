"""What a conversation becomes: ids, and which of them the loss counts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Encoded:
    ids: NDArray[np.uint32]  # (tokens,)
    counted: NDArray[np.bool_]  # (tokens,) whether the loss counts each
    bytes: int  # of UTF-8, of the text that the counted tokens stand for
