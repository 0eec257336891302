"""One number, the depth, sets the rest of a recipe.

    turned = turn(settings, vocab_size=2048, depth=12, ratio=20.0)
    turned.changes["model.n_embd"], turned.settings

The recipe that is turned is the reference: its rates were found by measuring, at its width, its
batch and its tokens, and rules say how they move from there (as nanochat's move from its depth 12).
At its own depth and with its own tokens a recipe comes out as it went in.

N is the weights that multiply, D the tokens of a training, B those of a step, w the width; what has
the index 0 is the reference's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pydantic import ValidationError

from nanogpt.common.errors import UserError
from nanogpt.common.section import mistakes
from nanogpt.settings import FromScratch, Settings, parse
from nanogpt.sizing.count import config_of, count
from nanogpt.text.tokens import TokensManifest

RATIO = 20.0  # tokens a weight (Hoffmann et al. 2022)
EPOCHS = 4  # up to which a text read again teaches like a new one (Muennighoff et al. 2023)
BATCH = 0.383  # B ∝ D^0.383 (Bergsma et al. 2025)
HORIZON = 0.32  # rate ∝ D^-0.32 at one batch (Bjorck et al. 2024)
MEMORY = 0.527  # steps that weights remember, of all steps: ∝ (D/N)^-0.527 (Bergsma et al. 2025)
WIDTH = 1.0  # AdamW's rate ∝ 1 / w (Yang et al. 2022; docs/sizing.md has what was measured here)

RULES = {
    "model.n_layer": "the depth",
    "model.n_embd": "w/depth as it is (Kaplan et al. 2020: shape hardly matters; nanochat: 64)",
    "model.n_head": "the width of a head as it is",
    "model.n_kv_head": "queries a key-value head as they are",
    "model.n_inner": "in proportion to the width",
    "train.steps": "D / B, with D = {ratio:.3g} N ({whose})",
    "train.batch_size": "B ~ D^0.383 (Bergsma et al. 2025)",
    "train.learning_rate": "sqrt(B) (Malladi et al. 2022), D^-0.32 (Bjorck et al. 2024), 1/w (Yang"
    " et al. 2022)",
    "train.embedding_learning_rate": "as learning_rate",
    "train.muon_learning_rate": "sqrt(B), D^-0.32; not w (Bernstein & Newhouse 2024)",
    "train.weight_decay": "B / (rate x decay x D) ~ (D/N)^-0.527 (Bergsma et al. 2025)",
    "train.warmup_steps": "as many, or their share of fewer steps",
    "train.decay_steps": "their share of the steps",
    "train.eval_interval": "as many validations",
}


@dataclass(frozen=True)
class Turned:
    """A recipe after the dial.

    Attributes:
        changes: path of a key, such as `model.n_embd` → its value; of those that are set alone.
        ratio: tokens a weight.
        whose: who says how many, in words.
    """

    settings: FromScratch
    changes: dict[str, Any]
    ratio: float
    whose: str

    def rule(self, key: str) -> str:
        """By what a key was set, and whose rule that is."""
        return RULES[key].format(ratio=self.ratio, whose=self.whose)


def tokens_of(settings: Settings) -> int:
    """Tokens that a training reads."""
    return settings.train.steps * settings.train.batch_size * settings.model.context


def by_heart(matrices: float, tokens: int, text: int) -> str:
    """What to add of a training that reads its text, of so many tokens, again: "" or a warning.

    With more weights than that it is learned by heart: the val loss of the default recipe's plays
    fell up to 2.4 readings, and rose then, at 2.1 weights a token (docs/sizing.md).
    """
    if tokens <= text or matrices <= text:
        return ""
    return f"; with more weights than its {text:,} tokens it may be learned by heart"


def once(made: TokensManifest, weights: Sequence[float] | None) -> int:
    """Tokens by which a training has read its text once: of a mixture, the corpus that ends first.

    Args:
        weights: the mixture's, `train.weights`.
    """
    if not weights:
        return made.splits["train"].tokens
    parts = (part.splits["train"].tokens for part in made.parts)
    return round(min(n * sum(weights) / w for n, w in zip(parts, weights, strict=True)))


def turn(
    settings: FromScratch,
    vocab_size: int,
    depth: int,
    ratio: float | None = None,
    aspect: float | None = None,
    corpus: int | None = None,
    tokens: int | None = None,
) -> Turned:
    """Turn a recipe to another depth.

    Args:
        ratio: tokens a weight; None: RATIO, or what EPOCHS of the corpus give, if that is less.
        aspect: width a layer; None: the recipe's own.
        corpus: tokens of the train split, where they are known.
        tokens: to read; in the place of `ratio`.

    Raises:
        UserError: what comes out is refused as any settings are, such as a depth of 1,001.
    """
    shape = _shape(settings, depth, aspect)
    changes: dict[str, Any] = {f"model.{key}": value for key, value in shape.items()}
    changed = _with(settings, changes)  # what is refused need not be counted, which takes long
    matrices = count(config_of(changed, vocab_size), settings.model.context).matrices
    whose = "as asked"
    if tokens is None:
        tokens = round((ratio or RATIO) * matrices)
        if ratio is None:
            whose = "Hoffmann et al. 2022"
            if corpus and tokens > EPOCHS * corpus:
                tokens = EPOCHS * corpus
                whose = f"{EPOCHS} epochs of the text: Muennighoff et al. 2023"
    own = count(config_of(settings, vocab_size), settings.model.context).matrices
    denser = tokens / matrices / (tokens_of(settings) / own)
    grown = _train(settings, shape["n_embd"] / settings.model.n_embd, denser, tokens)
    changes |= {f"train.{key}": value for key, value in grown.items()}
    if settings.train.optimizer == "adamw":
        for key in ("embedding", "muon"):
            del changes[f"train.{key}_learning_rate"]  # which nothing reads
    found = _with(settings, changes)
    return Turned(found, changes, tokens_of(found) / matrices, whose)


def _shape(settings: FromScratch, depth: int, aspect: float | None) -> dict[str, int]:
    model = settings.model
    head, group = model.n_embd // model.n_head, model.n_head // model.n_kv_head
    unit = head * group
    wanted = Fraction(model.n_embd, model.n_layer) if aspect is None else Fraction(aspect)
    width = unit * max(1, math.ceil(wanted * depth / unit))
    inner = Fraction(model.n_inner * width, model.n_embd)
    if width != model.n_embd:
        inner = Fraction(16 * max(1, round(inner / 16)))  # which matrix units like
    heads = width // head
    return {
        "n_layer": depth,
        "n_embd": width,
        "n_head": heads,
        "n_kv_head": heads // group,
        "n_inner": int(inner),
    }


def _train(settings: FromScratch, wider: float, denser: float, tokens: int) -> dict[str, Any]:
    """The section `train`, at `wider` times the width, `denser` times the tokens a weight."""
    train, context = settings.train, settings.model.context
    windows, longer = train.batch_size, tokens / tokens_of(settings)
    if longer != 1:
        exact = windows * longer**BATCH
        unit = 2 ** max(0, math.floor(math.log2(exact)) - 3)
        windows = max(1, unit * round(exact / unit))
    steps = max(1, round(tokens / (windows * context)))
    share = steps / train.steps
    more = windows / train.batch_size
    pace = more**0.5 * longer**-HORIZON  # of rates, whatever the width
    adam = pace * wider**-WIDTH
    hidden = pace if train.optimizer == "muon" else adam  # whose matrices decay
    warmup = min(train.warmup_steps, round(train.warmup_steps * share))
    decay = round(train.decay_steps * share)
    if train.schedule == "wsd":
        decay = min(decay, steps - warmup)
    elif train.schedule == "cosine":
        decay = max(decay, warmup + 1)
    return {
        "steps": steps,
        "batch_size": windows,
        "learning_rate": _rounded(train.learning_rate * adam),
        "embedding_learning_rate": _rounded(train.embedding_learning_rate * adam),
        "muon_learning_rate": _rounded(train.muon_learning_rate * hidden),
        "weight_decay": _rounded(train.weight_decay * more / (longer * hidden) * denser**MEMORY),
        "warmup_steps": warmup,
        "decay_steps": decay,
        "eval_interval": max(1, round(train.eval_interval * share)),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _with(settings: FromScratch, changes: dict[str, Any]) -> FromScratch:
    values = settings.model_dump()
    for path, value in changes.items():
        section, key = path.split(".")
        values[section][key] = value
    try:
        found = parse(values)
    except ValidationError as error:
        lines = (f"  {mistake}" for mistake in mistakes(error, FromScratch))
        raise UserError("\n".join(("the dial is turned too far:", *lines))) from None
    assert isinstance(found, FromScratch)
    return found
