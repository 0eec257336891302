"""Write samples of a trained model.

python -m nanogpt.stages.sample --base B --model M --out samples.md  (the pipeline's stage)
python -m nanogpt.stages.sample --model M --prompt "JULIET:"   (to play: prints, keeps nothing)
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
from nanogpt.lineage import open_base
from nanogpt.weights import load_model, weights_sha256


def main(args: argparse.Namespace, settings: Settings) -> None:
    prompt = args.prompt if args.prompt is not None else read_prompt(settings)
    continued = write(args.model, prompt, settings, settings.sample.samples)
    texts = {f"Sample {number}": text for number, text in enumerate(continued, start=1)}
    base = open_base(args.base)["base"] if args.base else None
    # without a step taken the model is its base
    if base and settings.train.steps:
        (texts[f"Before: the base {base}"],) = write(args.base, prompt, settings, 1)
    for title, text in texts.items():
        print(f"--- {title} ---\n{text}\n")
    if args.out is not None:
        blocks = [f"## {title}\n\n```text\n{text}\n```\n" for title, text in texts.items()]
        write_text(args.out, f"# Samples of {settings.recipe}\n\n" + "\n".join(blocks))
        outbox.sampled(weights_sha256(args.model), args.out)


def write(model: Path, prompt: str, settings: Settings, samples: int) -> list[str]:
    """Have the model in a folder continue the prompt."""
    options = settings.sample.model_dump(exclude={"prompt", "prompt_file", "samples"})
    return generate(
        load_model(model, torch.device(pick_device(settings.machine))),
        tokenizer.load(model),
        prompt,
        samples=samples,
        **options,
    )


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
    parser.add_argument("--base", type=Path, help="write a sample of this one too: before, after")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path)
    where.add_argument("--prompt")
    stages.run(main, parser)
