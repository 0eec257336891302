"""Write samples of a trained model, and one of its base; `nanogpt sample` is for playing.

    python -m nanogpt.stages.sample params.yaml

A model of conversations answers the prompt or, if that is empty, questions of the held-out text.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nanogpt.common.command import run_stage
from nanogpt.common.files import write_text
from nanogpt.common.progress import bar
from nanogpt.common.secrets import public
from nanogpt.formats.base import open_base
from nanogpt.formats.weights import load_model
from nanogpt.generation.generate import AT_ONCE, generate
from nanogpt.generation.options import Options
from nanogpt.machine.distributed import pick_compute, prepare
from nanogpt.settings import Settings, load
from nanogpt.text.prompt import Start, answer, go_on, read_prompt
from nanogpt.text.samples import Question, questions, to_markdown
from nanogpt.text.talks.chat import Message
from nanogpt.text.talks.template import open_template
from nanogpt.text.tokens import Tokens, open_tokens
from nanogpt.text.words import tokenizer
from nanogpt.tracking import outbox
from nanogpt.tracking.versions.identity import identify


def main(settings: Settings) -> None:
    model, out = settings.path("model"), settings.path("samples.md")
    asked = ask(settings, open_tokens(settings.path("tokens")))
    continued = [text for one in asked for text in sample(model, one, settings)]
    texts = {f"Sample {number}": text for number, text in enumerate(continued, start=1)}
    prompts = [one.prompt for one in asked for _ in range(one.samples)]
    base = open_base(settings.path("base"))
    # without a step taken the model is its base
    if base.name and settings.train.steps:
        (before,) = sample(settings.path("base"), replace(asked[0], samples=1), settings)
        texts[f"Before: the base {base.name}"] = before
        prompts.append(asked[0].prompt)
    write_text(out, to_markdown(f"Samples of {settings.recipe}", texts))
    print(f"sample: {len(texts)} sample{'s' if len(texts) > 1 else ''} in {out}")
    # MLflow groups by the first column, and compares the second
    table = {"sample": [*texts], "text": [public(text) for text in texts.values()]}
    table["prompt"] = [public(prompt) for prompt in prompts]
    identity = identify(settings)
    outbox.sampled(identity, out, table)
    outbox.locked(identity, model, settings.lock)


@dataclass(frozen=True)
class Asked:
    """What a model is to go on from."""

    start: Start
    prompt: str
    samples: int
    shown: Callable[[str], str]  # what came of it → what the page says


def ask(settings: Settings, tokens: Tokens) -> list[Asked]:
    """The prompt; of a model of conversations the prompt as a question, or held-out ones."""
    encoder, count = tokenizer.load(tokens.folder), settings.sample.samples
    prompt = read_prompt(settings.sample)
    if prompt and any(part.conversations for part in tokens.manifest.parts):
        found, each = [Question((Message("user", prompt),))], count
    else:
        found, each = questions(tokens.held_out(), count), 1
    if not found:
        return [Asked(go_on(encoder, prompt), prompt, count, str)]
    template = open_template(tokens.folder, encoder)
    return [
        Asked(answer(template, one.messages), one.messages[-1].content, each, one.shown)
        for one in found
    ]


def sample(model: Path, asked: Asked, settings: Settings) -> list[str]:
    """Have the model in a folder go on."""
    options = Options.of(settings.sample)
    device = prepare(settings.machine)
    loaded = load_model(model, device, pick_compute(settings.machine, device.type))
    with bar(asked.samples * settings.sample.tokens, "sample", "token") as progress:
        texts = generate(
            loaded,
            tokenizer.load(model),
            [asked.start] * asked.samples,
            [options.nth(index) for index in range(asked.samples)],
            slots=AT_ONCE,
            hear=progress.update,
        )
    return [asked.shown(text) for text in texts]


if __name__ == "__main__":
    run_stage(load, main)
