"""Score a model on the held-out split, every token once, and let it try for `champion`.

python -m nanogpt.stages.eval --tokens T --model M --metrics F
"""

import argparse
import json
from pathlib import Path

from nanogpt import outbox, stages
from nanogpt.config import Settings
from nanogpt.distributed import join
from nanogpt.errors import UserError
from nanogpt.evaluation import measures, total_loss, window_total
from nanogpt.files import write_text
from nanogpt.progress import bar
from nanogpt.tokens import open_tokens
from nanogpt.weights import load_model, weights_sha256


def main(args: argparse.Namespace, settings: Settings) -> None:
    tokens = open_tokens(args.tokens)
    world = join(settings.machine)
    model = load_model(args.model, world.device, world.compute)
    if model.config.vocab_size != tokens.manifest["vocab_size"]:
        raise UserError(
            f"{args.model} knows {model.config.vocab_size} tokens, {args.tokens} has"
            f" {tokens.manifest['vocab_size']}: they do not belong together"
        )
    name = "test" if len(tokens.split("test")) > 1 else "val"
    if name == "val":
        print("eval: no test split (tokenize.test is 0), so val is scored, which chose the step")
    ids = tokens.split(name)
    with bar(window_total(ids, model.config.context), f"eval {name}", "window") as progress:
        nats, count = total_loss(model, ids, model.config.context, world, progress.update)
    split = tokens.manifest["splits"][name]
    figures = measures(nats, count, len(ids), split["bytes"])
    write_text(args.metrics, json.dumps({"split": name, **figures}, indent=1) + "\n")
    print(
        f"eval: {name} loss {figures['loss']:.4f} nats a token, perplexity"
        f" {figures['perplexity']:.2f}, {figures['bits_per_byte']:.4f} bits per byte,"
        f" {count:,} tokens"
    )
    scores = {f"eval_{key}": value for key, value in figures.items()}
    decision = outbox.evaluated(weights_sha256(args.model), scores, split["text_sha256"])
    print(f"eval: {decision}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    stages.run(main, parser)
