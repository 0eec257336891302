"""The model that a training starts from: a new one, or a base, with adapters or without.

model = initial_model(settings, tokens, Path("data/shakespeare/base"))
"""

import dataclasses
import hashlib
from pathlib import Path

import torch

from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError
from nanogpt.formats.hub.config import read_config
from nanogpt.formats.weights import load_model
from nanogpt.model import GPT
from nanogpt.settings import FromScratch, Settings
from nanogpt.text.tokens import Tokens
from nanogpt.training import lora


def initial_config(settings: Settings, tokens: Tokens, base: Path) -> GPTConfig:
    """The shape of the model that a training starts from."""
    eot = tokens.manifest.eot
    if isinstance(settings, FromScratch):
        shape = settings.model
        return GPTConfig(
            vocab_size=tokens.manifest.vocab_size,
            head_dim=shape.n_embd // shape.n_head,
            bos=eot,
            eos=eot,
            pad=eot,
            **shape.model_dump(),
        )
    config = read_config(base)
    # a text may end with the token that ends the training documents, or their turns, or with the
    # base's own
    before = config.eos if isinstance(config.eos, tuple) else (config.eos,)
    ends = dict.fromkeys((eot, tokens.manifest.turn_end, *before))
    eos = tuple(end for end in ends if end is not None)
    # what began the training documents is what programs are to begin a text with
    bos = tokens.manifest.begin[0] if tokens.manifest.begin else config.bos
    return dataclasses.replace(config, bos=bos, eos=eos if len(eos) > 1 else next(iter(eos), None))


def initial_model(
    settings: Settings, tokens: Tokens, base: Path, compute: torch.dtype = torch.float32
) -> GPT:
    """Build the same model at each call, on the CPU, in training mode.

    Args:
        base: what the download stage made; not read if the settings name no base.

    Raises:
        UserError: the base is damaged, has another tokenizer than the tokens, or less context than
            `model.context`; or `train.lora` names matrices that it does not have.
    """
    torch.manual_seed(settings.seed)
    config = initial_config(settings, tokens, base)
    if isinstance(settings, FromScratch):
        return GPT(config, compute)
    digest = hashlib.sha256((base / "tokenizer.json").read_bytes()).hexdigest()
    if digest != tokens.manifest.tokenizer_sha256:
        raise UserError(
            f"{tokens.folder} was not made with the tokenizer of {base}; run the tokenize stage"
        )
    window = settings.model
    model = load_model(base, compute=compute, context=window.context, dropout=window.dropout)
    model.config = dataclasses.replace(model.config, bos=config.bos, eos=config.eos)
    if settings.train.lora:
        lora.add(model, settings.train.lora)
    return model.train()


def trained(model: GPT) -> dict[str, torch.nn.Parameter]:
    """The parameters that a training changes: all of them, or only the adapters."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
