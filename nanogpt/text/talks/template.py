"""A conversation → the ids of a model: its own chat template, or a plain one of ours.

    ensure(folder, tokenizer)           # writes the plain one, where the tokenizer brings none
    template = open_template(folder, tokenizer)
    template.render(conversation)       # ids, and which of them are the assistant's
    template.prompt(messages)           # ids that the assistant goes on from

The ids are those of transformers' `apply_chat_template`, but for one thing: what in a message is
spelled like a special token stays text, as nobody may end a turn by writing so. What counts for the
loss is each answer from its first character that is no blank, with the token that ends the turn.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, TemplateError, ext, nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray

from nanogpt.common.errors import UserError
from nanogpt.text.talks.chat import Conversation, Message
from nanogpt.text.words.encoded import Encoded
from nanogpt.text.words.library import named, open_library, read_object
from nanogpt.text.words.tokenizer import Tokenizer

FILE = "chat_template.jinja"  # as transformers writes it
# A role, a line end, what is said, and a token that no text can spell
PLAIN = (
    "{%% for message in messages %%}"
    "{{ message['role'] + '\\n' + message['content'] + %s }}"
    "{%% endfor %%}"
    "{%% if add_generation_prompt %%}{{ 'assistant\\n' }}{%% endif %%}"
)
BEGIN = "{{ %s }}"  # before it, where each text begins with tokens of its own
TODAY = date(2024, 7, 26)  # to a template that asks; Llama 3.2's own, where nobody says another
NAMES = [f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]
PROBE = Conversation((Message("user", "a"), Message("assistant", "b")))


class Read(NamedTuple):
    """A conversation as a model reads it."""

    ids: NDArray[np.uint32]  # (tokens,)
    counted: NDArray[np.bool_]  # (tokens,)
    places: NDArray[np.int64]  # (tokens, 2): bytes of `answers`, of those that count
    answers: bytes  # UTF-8 of all that the assistant says, without blanks around each answer


class _Said(NamedTuple):
    """Where in a rendered text a message is, in characters."""

    role: str
    start: int  # of what it says, without blanks around it
    stop: int
    end: int  # of the turn: behind the token that ends it, where there is one


class Template:
    """The chat template of a tokenizer's folder."""

    def __init__(self, folder: Path, text: str, tokenizer: Tokenizer) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        self._library = open_library(folder)
        self._library.post_processor = None
        special = sorted(filter(None, tokenizer.special), key=len, reverse=True)
        self._names = {i: name for name, i in tokenizer.special.items()}
        self._special = re.compile("|".join(map(re.escape, special)) or "(?!)")
        found = {name: named(folder, name) for name in NAMES}
        self._values = {name: token for name, token in found.items() if token is not None}
        try:
            self._template = _environment().from_string(text)
        except TemplateError as error:
            raise UserError(f"{folder}: its chat template cannot be read: {error}") from None
        text, said = self._text(PROBE)
        ended = text[said[-1].stop : said[-1].end]
        self.end = tokenizer.special.get(ended.strip())  # of a turn; None: no token says it

    def render(self, conversation: Conversation) -> Encoded:
        """The ids of a conversation with all that stands around it.

        Raises:
            UserError: the template refuses it, or changes what it says; the vocabulary lacks some.
        """
        read = self.read(conversation)
        return Encoded(read.ids, read.counted, len(read.answers))

    def read(self, conversation: Conversation) -> Read:
        """As `render`, with the bytes of the answers that each token stands for.

        That of a token after an answer's last character is its last byte.
        """
        text, said = self._text(conversation)
        ids, spans = self._encode(text, said)
        counted = np.zeros(len(ids), np.bool_)
        places = np.zeros((len(ids), 2), np.int64)
        answers = b""
        for _, start, stop, end in (one for one in said if one.role == "assistant"):
            of = (spans[:, 1] > start) & (spans[:, 0] < end)
            sizes = [len(character.encode()) for character in text[start:stop]]
            bounds = len(answers) + np.cumsum([0, *sizes], dtype=np.int64)
            inside = np.clip(spans[of] - start, 0, stop - start)
            begins = np.minimum(bounds[inside[:, 0]], bounds[-1] - 1)
            places[of] = np.stack((begins, np.maximum(bounds[inside[:, 1]], begins + 1)), axis=1)
            counted |= of
            answers += text[start:stop].encode()
        return Read(ids, counted, places, answers)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids after which the assistant's next turn begins.

        Raises:
            UserError: as `render`.
        """
        text, said = self._text(Conversation(tuple(messages)), add_generation_prompt=True)
        ids: list[int] = self._encode(text, said)[0].tolist()
        return ids

    def special_tokens(self, messages: Sequence[Message]) -> int:
        """How often a special token is written in what `prompt` encodes: at least as many are its
        ids.

        Raises:
            UserError: as `render`.
        """
        text, _ = self._text(Conversation(tuple(messages)), add_generation_prompt=True)
        return len(self._special.findall(text))

    def _render(self, conversation: Conversation, **more: Any) -> str:
        messages = [dict(vars(message)) for message in conversation.messages]
        try:
            return self._template.render(messages=messages, **self._values | more)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise UserError(
                f"{self.folder}: its chat template refuses a conversation ({error}), which begins"
                f" {_beginning(conversation)}"
            ) from None

    def _text(
        self, conversation: Conversation, add_generation_prompt: bool = False
    ) -> tuple[str, list[_Said]]:
        """A rendered conversation, and where in it each message is.

        It is rendered twice: also with marks for what is said, between the same blanks. What stands
        around the marks is the template's own.
        """
        asked = {"add_generation_prompt": add_generation_prompt}
        whole = self._render(conversation, **asked)
        messages, cores, marked = conversation.messages, [], []
        for index, message in enumerate(messages):
            cores.append(core := message.content.strip())
            before, _, after = (
                message.content.partition(core) if core else (message.content, "", "")
            )
            marked.append(Message(message.role, f"{before}\ue000{index}\ue001{after}"))
        frame = self._render(Conversation(tuple(marked)), **asked)
        text, *rest = re.split("\ue000([0-9]+)\ue001", frame)
        said = []
        for index, own in zip(map(int, rest[::2]), rest[1::2], strict=True):
            start, stop = len(text), len(text) + len(cores[index])
            end = self._special.match(own, len(own) - len(own.lstrip()))
            said.append(_Said(messages[index].role, start, stop, stop + (end.end() if end else 0)))
            text += cores[index] + own
        if text != whole or len(said) != len(messages):
            raise UserError(
                f"{self.folder}: its chat template changes what is said, so that it is not known"
                " which tokens are an answer's; leave out what it reads as its own (such as"
                f" thoughts) in the conversation that begins {_beginning(conversation)}"
            )
        return text, said

    def _encode(
        self, text: str, said: Sequence[_Said]
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of a rendered text, and the characters of it that each stands for: (ids, 2)."""
        try:
            found = self._library.encode(text, add_special_tokens=False)
        except Exception as error:  # the library raises nothing more special
            for one in said:
                self.tokenizer.encode_array(text[one.start : one.stop])  # says what it lacks
            raise UserError(f"{self.folder}: cannot encode {text!r:.50}: {error}") from None
        ids = np.array(found.ids, np.uint32)
        spans = np.array(found.offsets, np.int64).reshape(-1, 2)
        starts, behind = [one.start for one in said], 0
        parts: list[tuple[NDArray[np.uint32], NDArray[np.int64]]] = []
        for place in (place for place, i in enumerate(found.ids) if i in self._names):
            start, stop = found.offsets[place]
            # one that is spelled in what is said; not a byte, or what is unknown
            before = bisect_left(starts, stop) - 1
            inside = before >= 0 and said[before].stop > start
            if inside and text[start:stop].strip() == self._names[found.ids[place]].strip():
                letters = self.tokenizer.encode_array(text[start:stop])
                parts += (
                    (ids[behind:place], spans[behind:place]),
                    (letters, spans[[place] * len(letters)]),
                )
                behind = place + 1
        if parts:
            parts.append((ids[behind:], spans[behind:]))
            return np.concatenate([p for p, _ in parts]), np.concatenate([p for _, p in parts])
        return ids, spans


def open_template(folder: Path, tokenizer: Tokenizer) -> Template:
    """The chat template in a folder of tokens, or of a model.

    Raises:
        UserError: there is none, it is damaged, or it does not show where an answer is.
    """
    text = template_text(folder)
    if text is None:
        raise UserError(f"{folder} has no chat template; name a model that was trained on talk")
    return Template(folder, text, tokenizer)


def template_text(folder: Path) -> str | None:
    """The chat template of a folder; None: it has none.

    Raises:
        UserError: it is not UTF-8, or tokenizer_config.json is damaged.
    """
    path, about = folder / FILE, folder / "tokenizer_config.json"
    if path.exists():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 at byte {error.start}; mend it") from None
    template = read_object(about).get("chat_template")
    if isinstance(template, list):  # by name, as some have several
        template = {part.get("name"): part.get("template") for part in template}.get("default")
    return template if isinstance(template, str) else None


def ensure(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the plain template to a tokenizer's folder that brings none.

    Raises:
        UserError: the vocabulary has no token to end a turn with.
    """
    if template_text(folder) is not None:
        return
    names = {i: text for text, i in tokenizer.special.items()}
    if tokenizer.eot is None or tokenizer.eot not in names:
        raise UserError(
            f"{folder}: neither a chat template is there, nor a token to end a turn with; take"
            " another base, or none"
        )
    begin = "".join(names.get(i, "") for i in tokenizer.begin)
    text = PLAIN % json.dumps(names[tokenizer.eot])
    if begin:
        text = BEGIN % json.dumps(begin) + text
    (folder / FILE).write_text(text, encoding="utf-8", newline="\n")


def plain_text(conversation: Conversation) -> str:
    """What the plain template makes of a conversation, without the tokens that end turns."""
    return "".join(f"{message.role}\n{message.content}" for message in conversation.messages)


class _Generation(ext.Extension):
    """`{% generation %}`, by which a template may say what is an answer: its text, as it is."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> Environment:
    """Jinja as transformers sets it up, but for what day it is: the same text, the same tokens.

    Source: `_cached_compile_jinja_template` of transformers/utils/chat_template_utils.py
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
    )

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **more)

    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = TODAY.strftime
    return environment


def _beginning(conversation: Conversation) -> str:
    return f"{conversation.messages[0].content!r:.60}"
