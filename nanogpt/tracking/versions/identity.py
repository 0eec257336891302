"""Which training made the model that lies in a recipe's folder.

    run = registry.run_of(client, identify(settings))

Two trainings can end with the same bytes, such as two that start from one base and take no step. So
a model is known by its recipe, its weights and the fingerprint of its training: what that was told
to do, on which tokens, from which base.
"""

from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.formats.base import open_base
from nanogpt.formats.weights import weights_sha256
from nanogpt.settings import Settings
from nanogpt.text.tokens import open_tokens
from nanogpt.tracking.run import FINGERPRINT
from nanogpt.tracking.versions.registry import Identity
from nanogpt.training.checkpoint import fingerprint_of


def identify(settings: Settings, root: Path = Path()) -> Identity:
    """The identity of a recipe's model; without what it was made from, if that is not here.

    Args:
        root: the repository, from where the settings name their files.
    """
    weights = weights_sha256(root / settings.path("model"))
    try:
        tokens = open_tokens(root / settings.path("tokens"))
        base = open_base(root / settings.path("base"))
    except UserError:  # the model alone was pulled
        return Identity(settings.recipe, weights)
    lineage = {
        FINGERPRINT: fingerprint_of(settings, tokens.digest, base.digest),
        "tokens_sha256": tokens.digest,
        "base_digest": base.name and base.digest,
    }
    return Identity(settings.recipe, weights, lineage)
