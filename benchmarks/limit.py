"""What the processor's matrix products come to at their best, and what a training step needs.

    OMP_NUM_THREADS=1 python -m benchmarks.limit params.yaml 2048     # entries of its vocabulary

Prints JSON: operations a second of each type that trainings multiply in here, and operations of a
step of the recipe.
"""

import json
import sys
import time

import torch

from nanogpt.settings import FromScratch, load
from nanogpt.sizing.count import config_of, count

SIZE = 1024  # rows and columns: large enough for the best kernels, small enough for the cache
SECONDS = 1.0


def main() -> None:
    recipe, entries = sys.argv[1:]
    settings = load(recipe)
    assert isinstance(settings, FromScratch)
    context = settings.model.context
    a_token = count(config_of(settings, int(entries)), context).flops_per_token
    types = [torch.float32]
    if torch.cpu.get_capabilities().get("avx512_bf16"):
        types.append(torch.bfloat16)
    found = {str(dtype).removeprefix("torch."): best(dtype) for dtype in types}
    print(json.dumps(found | {"step": a_token * context * settings.train.batch_size}))


def best(dtype: torch.dtype) -> float:
    """Operations a second of the quickest of many products."""
    a, b = torch.randn(2, SIZE, SIZE).to(dtype)
    quickest, ends = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < ends:
        began = time.perf_counter()
        a @ b
        quickest = min(quickest, time.perf_counter() - began)
    return float(2 * SIZE**3 / quickest)


if __name__ == "__main__":
    main()
