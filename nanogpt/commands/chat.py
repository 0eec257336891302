"""Talk with a model in a terminal; nothing is kept.

nanogpt chat --model models:/nanogpt-chats@champion
printf 'What is 3 plus 4?\n/seed 2\nAnd 5 plus 6?\n' | nanogpt chat --recipe chats

A model of conversations answers by its chat template. Another goes on with the text: what was typed
and what it wrote are one text, with a line break before each typed line. Answers go to standard
output, all else to standard error.
"""

import io
import json
import readline  # by which `input` edits a line, and knows those before
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import ValidationError

from nanogpt.commands.export import open_model
from nanogpt.commands.sample import find
from nanogpt.common.errors import UserError
from nanogpt.common.recipe import did_you_mean
from nanogpt.common.section import mistakes
from nanogpt.formats.weights import load_model
from nanogpt.generation.engine import Engine
from nanogpt.generation.options import Options
from nanogpt.machine.distributed import pick_compute, prepare
from nanogpt.model import GPT
from nanogpt.settings import Sample, load
from nanogpt.text.prompt import Start, answer, go_on
from nanogpt.text.talks.chat import Message
from nanogpt.text.talks.template import Template, open_template, template_text
from nanogpt.text.words import tokenizer
from nanogpt.text.words.tokenizer import Tokenizer
from nanogpt.training.publish import made

OTHER = ("prompt", "prompt_file", "samples")  # keys of `sample` that are not for a talk
KEYS = [key for key in Sample.model_fields if key not in OTHER]
COMMANDS = ["system", "new", "help", "quit"]
HELP = """\
/system TEXT: what the model is told before all else; `off`: nothing
/new: forget what was said; /quit or Ctrl-D: end; Ctrl-C: stop an answer
A line that ends in \\ goes on in the next; one that begins with // is said with one /"""
# a model can write what a terminal obeys, such as "set the title"
VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def chat(recipe: Path, model: str | None, talks: bool | None) -> None:
    """Answer what is typed, or comes by a pipe, until its end.

    Args:
        recipe: its folder; says how to draw, until something else is said.
        model: a directory or `models:/...`; None: the recipe's.
        talks: whether the model answers by its template; None: if it has one, and was not trained
            on plain text here.

    Raises:
        UserError: no such recipe or model, or it has no template to answer by.
    """
    settings = load(recipe / "params.yaml")
    with open_model(find(recipe, settings, model)) as (name, folder):
        encoder, card = tokenizer.load(folder), made(folder)
        if talks is None:
            talks = template_text(folder) is not None and (card is None or card.talks)
        template = open_template(folder, encoder) if talks else None
        device = prepare(settings.machine)
        loaded = load_model(folder, device, pick_compute(settings.machine, device.type))
    _tell(f"{name}: {'/help lists what can be set' if template else 'it goes on with the text'}")
    talk = Talk(loaded, encoder, template, settings.sample)
    for line in _lines():
        try:
            if not talk.hear(line):
                break
        except UserError as error:
            _tell(str(error))


class Talk:
    """What was said so far, and how the model is asked."""

    def __init__(
        self, model: GPT, encoder: Tokenizer, template: Template | None, sample: Sample
    ) -> None:
        self.engine = Engine(model, encoder, slots=1)
        self.encoder, self.template, self.sample = encoder, template, sample
        # tokens of a prompt: an answer has a quarter of the context before the oldest half goes
        self.room = model.config.context - model.config.context // 4
        self.system: list[Message] = []
        self.turns: list[Message] = []
        self.text = ""  # of a model without a template
        self.answers = 0  # each is drawn by another seed

    def hear(self, line: str) -> bool:
        """Do what a line asks for; whether the talk goes on.

        Raises:
            UserError: that cannot be done; the talk is as it was.
        """
        try:
            line.encode()
        except UnicodeEncodeError:
            raise UserError("that was not UTF-8, and is left out") from None
        if line.startswith("/") and not line.startswith("//"):
            word, _, value = line[1:].partition(" ")
            return self._obey(word, value.strip())
        said = line.removeprefix("/") if line.startswith("//") else line
        if self.template is None:
            self._go_on(said)
        elif said.strip():
            self._answer(self.template, said)
        return True

    def _obey(self, word: str, value: str) -> bool:
        match word:
            case "quit":
                return False
            case "new":
                self.turns, self.text, self.answers = [], "", 0
            case "system":
                self._be_told(value)
            case "help":
                for key in KEYS:
                    _tell(f"/{key} {json.dumps(getattr(self.sample, key))}")
                _tell(HELP)
            case _ if word in KEYS:
                self._set(word, value)
            case _:
                meant = did_you_mean(word, [*KEYS, *COMMANDS], lambda found: f"/{found}")
                raise UserError(f"/{word} is not known{meant}; /help lists what is")
        return True

    def _set(self, key: str, word: str) -> None:
        if word:
            value: Any = None if word == "off" else word
            with suppress(ValueError, RecursionError):
                value = json.loads(word)
            if key == "stop" and not isinstance(value, list):
                value = [] if value is None else [word if not isinstance(value, str) else value]
            try:
                self.sample = Sample.model_validate(self.sample.model_dump() | {key: value})
            except ValidationError as error:
                place, _, said = mistakes(error, Sample)[0].partition(": ")
                raise UserError(f"/{place} {said}") from None
            self.answers = 0
        _tell(f"/{key} {json.dumps(getattr(self.sample, key), ensure_ascii=False)}")

    def _be_told(self, text: str) -> None:
        if self.template is None:
            raise UserError("/system is for models that have a chat template; this one has none")
        if text == "off":
            self.system = []
        elif text:
            system = [Message("system", text)]
            answer(self.template, [*system, Message("user", text)])  # some templates refuse it
            self.system = system
        _tell(f"/system {self.system[0].content if self.system else 'off'}")

    def _answer(self, template: Template, said: str) -> None:
        turns = [*self.turns, Message("user", said)]
        start = answer(template, [*self.system, *turns])
        while len(start.ids) > self.room and len(turns) > 1:
            turns = turns[2:]
            start = answer(template, [*self.system, *turns])
        if left := (len(self.turns) + 1 - len(turns)) // 2:
            _tell(
                f"(the context is full: the oldest {left} question{'s' * (left > 1)} with"
                f" {'their answers are' if left > 1 else 'its answer is'} left out from here on)"
            )
        if len(start.ids) > (context := self.engine.model.config.context):
            raise UserError(
                f"that is {len(start.ids):,} tokens with what the template puts around it, and the"
                f" model reads {context:,} at most; say it shorter"
            )
        if text := self._write(start):
            self.turns = [*turns, Message("assistant", text)]

    def _go_on(self, said: str) -> None:
        self.encoder.encode(said)  # what the vocabulary lacks is named by its place in the line
        between = "\n" if self.text and said and not self.text.endswith("\n") else ""
        text = self.text + between + said
        start = go_on(self.encoder, text)
        if (left := len(start.ids) - self.room) > 0:
            begin = self.encoder.begin
            start = Start([*begin, *start.ids[len(begin) + left :]], text)
            _tell(f"(the context is full: the oldest {left:,} tokens are not read)")
        self.text = text + self._write(start)

    def _write(self, start: Start) -> str:
        """Print what comes of it while it comes; until Ctrl-C."""
        options = Options.of(self.sample).nth(self.answers)
        self.engine.check(start, options)
        printed = ""
        with _ctrl_c() as told:
            text = self.engine.add(start, options)
            try:
                while self.engine.busy and not told.is_set():
                    self.engine.step()
                    if text.error:
                        raise text.error
                    new, printed = text.text[len(printed) :], text.text
                    shown = new.translate(VISIBLE) if sys.stdout.isatty() else new
                    print(shown, end="", flush=True)
            finally:
                self.engine.drop(text)
        print(flush=True)
        self.answers += 1
        if self.template and text.reason == "length":
            _tell(f"(cut after {text.drawn:,} tokens; /tokens says how many there may be)")
        return printed


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _lines() -> Iterator[str]:
    """What is typed, until Ctrl-D, or Ctrl-C where nothing is typed yet."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # `hear` says what is wrong with a line
    before = ""
    while True:
        try:
            line = input((". " if before else "> ") * terminal)
        except KeyboardInterrupt:
            print()
            if not before and not readline.get_line_buffer():
                return
            before = ""
            continue
        except EOFError:
            print(end="\n" * terminal)
            if before:
                yield before
            return
        if line.endswith("\\"):
            before += line[:-1] + "\n"
        else:
            yield before + line
            before = ""


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Ctrl-C sets an event, so that a step of the model ends; a second one ends the program."""
    told = threading.Event()

    def hear(_: int, __: FrameType | None) -> None:
        if told.is_set():
            raise KeyboardInterrupt
        told.set()

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield told
    finally:
        signal.signal(signal.SIGINT, before)
