"""Low-rank adapters: train small matrices added to a frozen model (Hu et al. 2021).

    lora.add(model, settings.train.lora)      # now only the adapters have gradients
    lora.write_adapter(folder, model.config, settings.train.lora, tensors, "gpt2", commit)
    lora.merge(model)                         # the same model without them

Names, conventions and files are those of `peft`.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError
from nanogpt.model import GPT, Linear
from nanogpt.settings import Lora

QKV = "q_proj", "k_proj", "v_proj"  # our one matrix holds the rows of these three, in this order
# names of a layer's matrices: Hugging Face's → ours
GPT2 = {
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}
LLAMA = {  # and all that came after it
    "self_attn.q_proj": "attention.qkv",
    "self_attn.k_proj": "attention.qkv",
    "self_attn.v_proj": "attention.qkv",
    "self_attn.o_proj": "attention.out",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.down",
}


class Adapter(nn.Module):
    """Adds alpha / rank · B A to some rows of a matrix: nothing at first, since B is zero."""

    def __init__(self, lora: Lora, columns: int, rows: slice) -> None:
        super().__init__()
        self.scale = lora.alpha / lora.rank
        self.rows = rows  # of the matrix, which may hold several
        self.lora_A = nn.Parameter(torch.empty(lora.rank, columns))
        self.lora_B = nn.Parameter(torch.zeros(rows.stop - rows.start, lora.rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as peft


class Adapted(Linear):
    """A frozen Linear with adapters on all of its rows, or on some."""

    def __init__(self, linear: Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, "meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.compute = linear.compute
        self.adapters = nn.ModuleDict()

    def factors(self) -> tuple[Tensor, Tensor]:
        """All adapters as one product: (out, rank·adapters) by (rank·adapters, in)."""
        adapters = [module for module in self.adapters.values() if isinstance(module, Adapter)]
        b = [
            F.pad(a.scale * a.lora_B, (0, 0, a.rows.start, self.out_features - a.rows.stop))
            for a in adapters
        ]
        return torch.cat(b, dim=1), torch.cat([a.lora_A for a in adapters])

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.compute)
        b, a = (factor.to(self.compute) for factor in self.factors())
        return super().forward(x) + F.linear(F.linear(x, a), b)


def add(model: GPT, lora: Lora) -> None:
    """Freeze `model` and put adapters into it, in place, drawn from torch's generator.

    Raises:
        UserError: a target names no matrix of this architecture.
    """
    chosen = _chosen(model.config, lora)
    model.requires_grad_(False)
    for block in model.blocks:
        for theirs in chosen:
            room, _, name = _matrices(model.config)[theirs].partition(".")
            parent = block.get_submodule(room)
            linear = parent.get_submodule(name)
            if not isinstance(linear, Adapted):
                linear = Adapted(linear)  # type: ignore[arg-type]
                setattr(parent, name, linear)
            leaf = theirs.rpartition(".")[2]
            adapter = Adapter(lora, linear.in_features, _rows(model.config, leaf, linear))
            linear.adapters[leaf] = adapter


@torch.no_grad()
def merge(model: GPT) -> None:
    """Add the adapters to the weights and remove them: the same model up to rounding."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Adapted):
            b, a = module.factors()
            module.weight += b @ a
            plain = Linear(module.in_features, module.out_features, module.bias is not None, "meta")
            plain.weight, plain.bias, plain.compute = module.weight, module.bias, module.compute
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, plain)


def write_adapter(
    folder: Path,
    config: GPTConfig,
    lora: Lora,
    tensors: Mapping[str, Tensor],
    base: str,
    revision: str | None = None,
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, as `peft` reads them.

    Args:
        tensors: the adapters, by our names.
        base: the model that they belong to: its id on the hub, or a path.
        revision: its commit on the hub.
    """
    chosen, theirs = _chosen(config, lora), {}
    gpt2 = config.architecture == "gpt2"
    layers = "transformer.h" if gpt2 else "model.layers"
    for layer in range(config.n_layer):
        for name in chosen:
            ours = f"blocks.{layer}.{_matrices(config)[name]}.adapters"
            for part in ("lora_A", "lora_B"):
                key = f"base_model.model.{layers}.{layer}.{name}.{part}.weight"
                theirs[key] = tensors[f"{ours}.{name.rpartition('.')[2]}.{part}"].contiguous()
    save_file(theirs, folder / "adapter_model.safetensors", {"format": "pt"})
    about = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": gpt2,
        "inference_mode": True,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": lora.rank,
        "revision": revision,
        "target_modules": sorted(_leaves(config) if lora.targets == "all-linear" else lora.targets),
        "task_type": "CAUSAL_LM",
    }
    text = json.dumps(about, indent=2) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def _matrices(config: GPTConfig) -> dict[str, str]:
    return GPT2 if config.architecture == "gpt2" else LLAMA


def _chosen(config: GPTConfig, lora: Lora) -> list[str]:
    """Their names of the matrices that the targets mean: peft takes them for ends of names."""
    known = _matrices(config)
    if lora.targets == "all-linear":
        return list(known)
    for target in lora.targets:
        if not any(f".{name}".endswith(f".{target}") for name in known):
            raise UserError(
                f"train.lora.targets: {target!r} is no matrix of a {config.architecture} layer;"
                f" known: {', '.join(_leaves(config))}, or all-linear for all of them"
            )
    return [n for n in known if any(f".{n}".endswith(f".{target}") for target in lora.targets)]


def _leaves(config: GPTConfig) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[2] for name in _matrices(config)))


def _rows(config: GPTConfig, leaf: str, linear: Linear) -> slice:
    if leaf not in QKV:
        return slice(0, linear.out_features)
    widths = [n * config.head_dim for n in (config.n_head, *[config.n_kv_head] * 2)]
    start = sum(widths[: QKV.index(leaf)])
    return slice(start, start + widths[QKV.index(leaf)])
