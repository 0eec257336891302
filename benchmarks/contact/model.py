"""Whether the model computes on a GPU what it computes on a CPU."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.contact.asked import Asked, Check, check
from benchmarks.contact.training import SMALL
from nanogpt.architecture import GPTConfig
from nanogpt.model import GPT, Cache


def numbers(asked: Asked) -> Iterator[Check]:
    """The model computes what it computes on a CPU, and no token sees what is after it.

    Also where heads share keys, and where a text is read as generation reads it.
    """
    for architecture in ("gpt2", "qwen3"):
        shape = asked.settings(SMALL, 1, model={"dropout": 0.0}).model.model_dump()
        shape["architecture"] = architecture
        if architecture != "gpt2":
            shape["n_kv_head"] = shape["n_head"] // 2
        config = GPTConfig(vocab_size=65, head_dim=shape["n_embd"] // shape["n_head"], **shape)
        torch.manual_seed(0)
        model = GPT(config)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn_like(p))
        ids, targets = torch.randint(65, (2, 4, config.context))
        expected = model(ids, targets).detach()
        for compute, compiled in ((torch.float32, False), (torch.bfloat16, True)):
            there = GPT(config, compute)
            there.load_state_dict(model.state_dict())
            run: Any = there.to(asked.device)
            run = torch.compile(run, dynamic=False) if compiled and not asked.quick else run
            changed = ids.clone()
            changed[:, -1] = (changed[:, -1] + 1) % 65
            place = partial(torch.Tensor.to, device=asked.device)
            with torch.no_grad():
                found, other = (run(place(some), place(targets)).cpu() for some in (ids, changed))
            name = f"{architecture} in {str(compute).removeprefix('torch.')}"
            far = (found - expected).abs().mean().item()
            limit = 1e-4 if compute == torch.float32 else 0.05
            yield check(
                f"{name}: mean distance from a CPU's losses",
                f"{far:.2g} nats",
                f"under {limit}",
                far < limit,
            )
            same = torch.equal(found[:, :-1], other[:, :-1])
            seen = not torch.equal(found[:, -1], other[:, -1])
            yield check(
                f"{name}: a changed last token",
                "changes its own loss alone" if same else "changes losses before it",
                "its own loss alone",
                same and seen,
            )
            there.eval()
            cache = Cache(config, 4, config.context, torch.device(asked.device), compute)
            with torch.no_grad():
                whole = there(place(ids))
                parts = torch.split(place(ids), [config.context - 8] + 8 * [1], dim=1)
                far = torch.cat([there(part, cache=cache) for part in parts], dim=1) - whole
            far = (far.abs().mean() / whole.std()).item()
            yield check(
                f"{name}: mean distance of logits read with a cache",
                f"{far:.2g} of their deviation",
                f"under {limit}",
                far < limit,
            )
