"""Score a model on held-out text, tell MLflow, and let it challenge the champion.

    python -m nanogpt.stages.eval params.yaml

A fine-tuned model is scored beside its base, as it was before.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from nanogpt.common.command import run_stage
from nanogpt.common.errors import UserError
from nanogpt.common.files import write_text
from nanogpt.formats.base import open_base
from nanogpt.machine.distributed import World, join
from nanogpt.scoring.blocks import Scores, score
from nanogpt.settings import Settings, load
from nanogpt.text.tokens import Name, Tokens, open_tokens
from nanogpt.tracking import client, datasets, outbox
from nanogpt.tracking.versions.identity import identify
from nanogpt.tracking.versions.trial import Trial
from nanogpt.training.texts import labels


def main(settings: Settings) -> None:
    model, context = settings.path("model"), settings.model.context
    tokens = open_tokens(settings.path("tokens"))
    base = open_base(settings.path("base"))
    client.check()
    # whatever a model was trained in, and wherever: scores are compared to less than bfloat16 tells
    world = join(settings.machine.model_copy(update={"dtype": "float32"}))
    test = tokens.manifest.splits["test"]
    name: Name = "test" if test.tokens > 1 else "val"
    if name == "val":
        why = "its test split is too short" if test.documents else "tokenize.test is 0"
        print(f"eval: nothing to test on ({why}), so val is scored, which chose the step")
    block = settings.eval.block
    apart = settings.train.packing == "documents"
    scores = scored(model, tokens, name, context, world, block, apart)
    figures = scores.figures()
    found: dict[str, Any] = {"split": name, **figures}
    metrics = {f"eval_{key}": value for key, value in figures.items()}
    if len(parts := tokens.manifest.parts) > 1:
        each = scores.by_part([part.splits[name].documents for part in parts])
        named = zip(labels(tokens), each.tolist(), strict=True)
        found["parts"] = {key: bits for key, bits in named if not math.isnan(bits)}
        metrics |= {f"eval_bits_per_byte/{key}": bits for key, bits in found["parts"].items()}
        shown = ", ".join(f"{key} {bits:.4f}" for key, bits in found["parts"].items())
        print(f"eval: bits per byte of {shown}", flush=True)
    # without a step taken the model is its base
    if base.name and settings.train.steps:
        start = scored(settings.path("base"), tokens, name, context, world, block, apart)
        found["base"] = before = start.figures()
        metrics |= {f"eval_base_{key}": value for key, value in before.items()}
    write_text(settings.path("eval.json"), json.dumps(found, indent=1) + "\n")
    identity = identify(settings)
    trial = Trial(scores, tokens.text(name), context, settings.eval, settings.machine)
    print(f"eval: {outbox.evaluated(identity, metrics, datasets.describe(tokens, name), trial)}")
    outbox.locked(identity, model, settings.lock)


def scored(
    folder: Path,
    tokens: Tokens,
    name: Name,
    context: int,
    world: World,
    block: int,
    apart: bool,
) -> Scores:
    """Score the model in `folder` on one split, in windows of `context` tokens, and say how it is.

    Args:
        block: bytes.
        apart: whether no document sees another.

    Raises:
        UserError: the model is damaged, or has another tokenizer than the tokens.
    """
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    if digest != tokens.manifest.tokenizer_sha256:
        raise UserError(
            f"{folder} has another tokenizer than {tokens.folder}: they do not belong together;"
            " run the train stage again"
        )
    scores = score(folder, tokens.text(name), context, world, block, apart)
    figures = scores.figures()
    print(
        f"eval: {folder.name}: {name} {figures['bits_per_byte']:.4f} bits per byte,"
        f" {figures['loss']:.4f} nats a token, perplexity {figures['perplexity']:.2f},"
        f" {scores.count:,} tokens",
        flush=True,
    )
    return scores


if __name__ == "__main__":
    run_stage(load, main)
