"""Score a model on held-out text, tell MLflow, and let it challenge the champion.

    python -m nanogpt.stages.eval --tokens T --base B --model M --metrics eval.json

A fine-tuned model is scored beside its base, as it was before.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from nanogpt import outbox, stages
from nanogpt.config import Settings
from nanogpt.distributed import World, join
from nanogpt.errors import UserError
from nanogpt.evaluation import measures, total_loss, window_total
from nanogpt.files import write_text
from nanogpt.lineage import open_base
from nanogpt.progress import bar
from nanogpt.tokens import Tokens, open_tokens
from nanogpt.weights import load_model, weights_sha256


def main(args: argparse.Namespace, settings: Settings) -> None:
    tokens = open_tokens(args.tokens)
    base = open_base(args.base)
    world = join(settings.machine)
    name = "test" if len(tokens.split("test")) > 1 else "val"
    if name == "val":
        print("eval: no test split (tokenize.test is 0), so val is scored, which chose the step")
    figures = score(args.model, tokens, name, settings.model.context, world)
    found: dict[str, Any] = {"split": name, **figures}
    scores = {f"eval_{key}": value for key, value in figures.items()}
    # without a step taken the model is its base
    if base["base"] and settings.train.steps:
        before = score(args.base, tokens, name, settings.model.context, world)
        found["base"] = before
        scores |= {f"eval_base_{key}": value for key, value in before.items()}
    write_text(args.metrics, json.dumps(found, indent=1) + "\n")
    digest = tokens.manifest["splits"][name]["text_sha256"]
    decision = outbox.evaluated(weights_sha256(args.model), scores, digest)
    print(f"eval: {decision}")


def score(
    folder: Path, tokens: Tokens, name: str, context: int, world: World
) -> dict[str, float | int]:
    """The figures of the model in `folder` on one split, in windows of `context` tokens.

    Raises:
        UserError: the model is damaged, or has another tokenizer than the tokens.
    """
    model = load_model(folder, world.device, world.compute)
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    if digest != tokens.manifest["tokenizer_sha256"]:
        raise UserError(
            f"{folder} has another tokenizer than {tokens.folder}: they do not belong together;"
            " run the train stage again"
        )
    ids = tokens.split(name)
    with bar(window_total(ids, context), f"eval {name}", "window") as progress:
        nats, count = total_loss(model, ids, context, world, progress.update)
    figures = measures(nats, count, len(ids), tokens.manifest["splits"][name]["bytes"])
    print(
        f"eval: {folder.name}: {name} loss {figures['loss']:.4f} nats a token, perplexity"
        f" {figures['perplexity']:.2f}, {figures['bits_per_byte']:.4f} bits per byte,"
        f" {count:,} tokens",
        flush=True,
    )
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("tokens", "base", "model", "metrics"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    stages.run(main, parser)
