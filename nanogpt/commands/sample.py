"""Have a model go on from a prompt, or answer it: to play, nothing is kept."""

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
from nanogpt.generation.generate import AT_ONCE, generate
from nanogpt.generation.options import Options
from nanogpt.machine.distributed import pick_compute, prepare
from nanogpt.settings import Sample, Settings, load
from nanogpt.text.prompt import answer, go_on, read_prompt
from nanogpt.text.samples import Question, questions
from nanogpt.text.talks.chat import Message
from nanogpt.text.talks.template import open_template
from nanogpt.text.tokens import open_tokens
from nanogpt.text.words import tokenizer
from nanogpt.training.publish import made


def play(
    recipe: Path,
    model: str | None,
    prompt: str | None,
    chat: bool | None,
    given: Mapping[str, Any],
) -> None:
    """Print samples.

    Args:
        recipe: its folder; says what is not given here.
        model: a directory or `models:/...`; None: the recipe's.
        prompt: None: the recipe's.
        chat: whether the prompt is a question; None: of a model of conversations it is. In place of
            an empty one comes the first question of the recipe's held-out text.
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
    with open_model(find(recipe, settings, model)) as (_, folder):
        encoder, card = tokenizer.load(folder), made(folder)
        title = ""
        if chat or (chat is None and card and card.talks):
            question = Question((Message("user", text),))
            if not text:
                question = _held_out(place / settings.path("tokens"))
            start = answer(open_template(folder, encoder), question.messages)
            title = question.shown("") + "\n"
        else:
            start = go_on(encoder, text)
        device = prepare(settings.machine)
        loaded = load_model(folder, device, pick_compute(settings.machine, device.type))
        typist = Typist(f"--- Sample 1 ---\n{title}")
        options = Options.of(wanted)
        try:
            first, *others = generate(
                loaded,
                encoder,
                [start] * wanted.samples,
                [options.nth(index) for index in range(wanted.samples)],
                slots=AT_ONCE,
                show=typist,
            )
        except KeyboardInterrupt:
            print()  # what was typed ends here
            raise
    typist.end(first)
    for number, text in enumerate(others, start=2):
        print(f"\n--- Sample {number} ---\n{title}{text}")


def find(recipe: Path, settings: Settings, model: str | None) -> str:
    """The model that is named, or else the recipe's own.

    Raises:
        UserError: the recipe has none yet.
    """
    place = recipe / settings.root
    own = place / settings.path("model")
    if model is None and not (own / "config.json").exists():
        raise UserError(
            f"the recipe {settings.recipe} has no model yet:"
            f" `{how_to_run(recipe, place)}` trains it;"
            " or name another model (--model, MODEL=)"
        )
    return model or str(own)


def _held_out(folder: Path) -> Question:
    """The first question of a recipe's held-out text, without the answer that is known."""
    found = questions(open_tokens(folder).held_out(), 1) if folder.is_dir() else []
    if not found:
        raise UserError("there is no question, and the recipe has none held out; give a --prompt")
    return found[0]._replace(known="")


class Typist:
    """Prints a text while it grows."""

    def __init__(self, title: str) -> None:
        self.title, self.printed = title, ""

    def __call__(self, text: str) -> None:
        """Print what is new of a text."""
        print(f"{self.title}{text.removeprefix(self.printed)}", end="", flush=True)
        self.title, self.printed = "", text

    def end(self, text: str) -> None:
        """Print the rest of the text."""
        print(f"{self.title}{text.removeprefix(self.printed)}")
