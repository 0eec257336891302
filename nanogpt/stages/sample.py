"""Write samples of a trained model, and one of its base; `nanogpt sample` is for playing.

python -m nanogpt.stages.sample params.yaml
"""

from pathlib import Path

from nanogpt.common.command import run_stage
from nanogpt.common.files import write_text
from nanogpt.common.progress import bar
from nanogpt.common.secrets import public
from nanogpt.formats.base import open_base
from nanogpt.formats.weights import load_model
from nanogpt.generation import generate
from nanogpt.machine.distributed import prepare
from nanogpt.settings import Settings, load
from nanogpt.text import tokenizer
from nanogpt.text.prompt import read_prompt
from nanogpt.text.samples import to_markdown
from nanogpt.tracking import outbox
from nanogpt.tracking.versions.identity import identify


def main(settings: Settings) -> None:
    model, out = settings.path("model"), settings.path("samples.md")
    prompt = read_prompt(settings.sample)
    continued = sample(model, prompt, settings, settings.sample.samples)
    texts = {f"Sample {number}": text for number, text in enumerate(continued, start=1)}
    base = open_base(settings.path("base"))
    # without a step taken the model is its base
    if base.name and settings.train.steps:
        (before,) = sample(settings.path("base"), prompt, settings, 1)
        texts[f"Before: the base {base.name}"] = before
    write_text(out, to_markdown(f"Samples of {settings.recipe}", texts))
    print(f"sample: {len(texts)} sample{'s' if len(texts) > 1 else ''} in {out}")
    # MLflow groups by the first column, and compares the second
    table = {"sample": [*texts], "text": [public(text) for text in texts.values()]}
    table["prompt"] = [public(prompt)] * len(texts)
    identity = identify(settings)
    outbox.sampled(identity, out, table)
    outbox.locked(identity, model, settings.lock)


def sample(model: Path, prompt: str, settings: Settings, samples: int) -> list[str]:
    """Have the model in a folder continue the prompt."""
    options = settings.sample.model_dump(exclude={"prompt", "prompt_file", "samples"})
    loaded = load_model(model, prepare(settings.machine))
    with bar(samples * settings.sample.tokens, "sample", "token") as progress:
        return generate(
            loaded,
            tokenizer.load(model),
            prompt,
            samples=samples,
            hear=lambda ids: progress.update(len(ids)),
            **options,
        )


if __name__ == "__main__":
    run_stage(load, main)
