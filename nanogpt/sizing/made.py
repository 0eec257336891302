"""What earlier stages made of a recipe, where it is of the recipe's settings as they are now.

    tokens, why = own_tokens(settings, recipe)      # None, and why: there are none, or others
    config = config_of_base(settings, recipe)

Names are compared: whether a text was edited since is for DVC to say.
"""

from dataclasses import replace
from pathlib import Path

from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError
from nanogpt.common.recipe import how_to_run
from nanogpt.common.secrets import public
from nanogpt.formats.base import open_base
from nanogpt.formats.hub.config import read_config
from nanogpt.settings import Settings
from nanogpt.text.tokens import Tokens, TokensManifest, open_tokens


def own_tokens(settings: Settings, recipe: Path) -> tuple[Tokens | None, str]:
    """The tokens in a recipe's place; or None, and what is there instead."""
    folder = recipe / settings.root / settings.path("tokens")
    if not folder.exists():
        return None, "has no tokens yet"
    tokens = open_tokens(folder)
    if other := _other(settings, tokens.manifest):
        return None, f"has other tokens than it asks for ({other})"
    return tokens, ""


def config_of_base(settings: Settings, recipe: Path) -> GPTConfig:
    """The shape of the model that a recipe's base is, with the recipe's context.

    Raises:
        UserError: the base is not there, or is another one, or has less context.
    """
    folder, names = recipe / settings.root / settings.path("base"), settings.download.bases
    found = open_base(folder).name if folder.exists() else None
    if found not in names:
        has = f"has {found} in the place of its base" if found else "has not fetched its base yet"
        raise UserError(
            f"the recipe {settings.recipe} {has}, {' or '.join(names)}, which brings its shape:"
            f" {how_made(settings, recipe, 'download')}"
        )
    config, context = read_config(folder), settings.model.context
    if context > config.context:
        raise UserError(
            f"model.context: {context:,} is more than the {config.context:,} tokens of {found}"
        )
    return replace(config, context=context)  # learned positions past it are cut off


def how_made(settings: Settings, recipe: Path, stage: str) -> str:
    """What to type for what a stage makes."""
    return (
        f"`{how_to_run(recipe, recipe / settings.root)}` makes that (or dvc repro, its stage"
        f" {stage} alone)"
    )


def _other(settings: Settings, made: TokensManifest) -> str:
    """By what else tokens were made; "": by these settings, as far as names tell."""
    asked = settings.tokenize
    for key, is_now, was in (
        (
            "download.corpus",
            ", ".join(public(name) for name, _ in settings.download.parts),
            ", ".join(part.name for part in made.parts),
        ),
        ("tokenize.tokenizer", asked.tokenizer, made.tokenizer),
        ("tokenize.vocab_size", asked.vocab_size or made.vocab_size, made.vocab_size),
    ):
        if is_now != was:
            return f"{key} is {is_now}, and they were made by {was}"
    return ""
