"""Have a model go on from a prompt: to play, nothing is kept."""

from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nanogpt.commands.export import open_model
from nanogpt.common.errors import UserError
from nanogpt.common.recipe import how_to_run
from nanogpt.common.section import mistakes
from nanogpt.formats.weights import load_model
from nanogpt.generation import generate
from nanogpt.machine.distributed import prepare
from nanogpt.settings import Sample, load
from nanogpt.text import tokenizer
from nanogpt.text.prompt import read_prompt


def play(recipe: Path, model: str | None, prompt: str | None, given: Mapping[str, Any]) -> None:
    """Print samples.

    Args:
        recipe: its folder; says what is not given here.
        model: a directory or `models:/...`; None: the recipe's.
        given: keys of the section `sample`.

    Raises:
        UserError: no such recipe or model, or a value that cannot be.
    """
    settings = load(recipe / "params.yaml")
    place = recipe / settings.root
    values = settings.sample.model_dump() | dict(given)
    try:
        wanted = Sample.model_validate(values)
    except ValidationError as error:
        option, colon, said = mistakes(error, Sample)[0].partition(":")
        raise UserError(f"--{option.replace('_', '-')}{colon}{said}") from None
    with chdir(place):  # from where the recipe names its files
        text = read_prompt(wanted) if prompt is None else prompt
    own = place / settings.path("model")
    if model is None and not (own / "config.json").exists():
        raise UserError(
            f"the recipe {settings.recipe} has no model yet:"
            f" `{how_to_run(recipe, place)}` trains it;"
            " or name another model (--model, MODEL=)"
        )
    with open_model(model or str(own)) as (_, folder):
        device = prepare(settings.machine)
        loaded, typist = load_model(folder, device), Typist("--- Sample 1 ---\n")
        options = wanted.model_dump(exclude={"prompt", "prompt_file"})
        try:
            first, *others = generate(loaded, tokenizer.load(folder), text, **options, show=typist)
        except KeyboardInterrupt:
            print()  # what was typed ends here
            raise
    typist.end(first)
    for number, text in enumerate(others, start=2):
        print(f"\n--- Sample {number} ---\n{text}")


class Typist:
    """Prints a text while it grows."""

    def __init__(self, title: str) -> None:
        self.title, self.printed = title, ""

    def __call__(self, text: str) -> None:
        """Print what is new of a text; the last character once all its bytes are there."""
        whole = text.rstrip("\N{REPLACEMENT CHARACTER}")
        if whole.startswith(self.printed):
            print(f"{self.title}{whole.removeprefix(self.printed)}", end="", flush=True)
            self.title, self.printed = "", whole

    def end(self, text: str) -> None:
        """Print the rest of the text."""
        print(f"{self.title}{text.removeprefix(self.printed)}")
