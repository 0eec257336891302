"""Write samples of a trained model.

python -m nanogpt.stages.sample --model M --out samples.md      (the pipeline's stage)
python -m nanogpt.stages.sample --model M --prompt "JULIET:"    (to play: prints, keeps nothing)
"""

import argparse
from pathlib import Path

import torch

from nanogpt import outbox, stages, tokenizer
from nanogpt.config import Settings
from nanogpt.distributed import pick_device
from nanogpt.errors import UserError
from nanogpt.files import write_text
from nanogpt.generation import generate
from nanogpt.weights import load_model, weights_sha256


def main(args: argparse.Namespace, settings: Settings) -> None:
    options = settings.sample
    prompt = args.prompt if args.prompt is not None else read_prompt(settings)
    model = load_model(args.model, torch.device(pick_device(settings.machine)))
    texts = generate(
        model,
        tokenizer.load(args.model),
        prompt,
        **options.model_dump(exclude={"prompt", "prompt_file"}),
    )
    for number, text in enumerate(texts, start=1):
        print(f"--- sample {number} ---\n{text}\n")
    if args.out is not None:
        blocks = [f"## Sample {n}\n\n```text\n{text}\n```\n" for n, text in enumerate(texts, 1)]
        write_text(args.out, f"# Samples of {settings.recipe}\n\n" + "\n".join(blocks))
        outbox.sampled(weights_sha256(args.model), args.out)


def read_prompt(settings: Settings) -> str:
    """The prompt, or what its file holds."""
    name = settings.sample.prompt_file
    if name is None:
        return settings.sample.prompt
    try:
        return Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"sample.prompt_file: {name!r} does not exist") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"sample.prompt_file: {name!r} is not UTF-8 at byte {error.start}"
        ) from None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path)
    where.add_argument("--prompt")
    stages.run(main, parser)
