"""One thread that owns an engine; texts are asked for, and heard of, on the event loop.

    worker = Worker(engine, asyncio.get_running_loop())
    answer = worker.ask(start, options, changed.set)
    ...                                     # `changed` is set when there is something new
    piece = answer.take()
    worker.drop(answer)                     # whoever asked is gone, or has all of it

The thread does nothing else: of each step it hands over what is new of all texts in one call.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

from nanogpt.common.errors import UserError
from nanogpt.common.memory import return_freed_memory
from nanogpt.generation.engine import Engine
from nanogpt.generation.options import Options
from nanogpt.generation.text import Drawn, Text
from nanogpt.serving.errors import Refused
from nanogpt.text.prompt import Start

log = logging.getLogger(__name__)


class Piece(NamedTuple):
    """What is new of a text since it was looked at last."""

    text: str
    tokens: list[Drawn]
    reason: str | None  # why the text ended; None: it goes on


class Answer:
    """A text that was asked for, as it is known on the event loop."""

    def __init__(self, start: Start, options: Options, changed: Callable[[], object]) -> None:
        self.start, self.options, self.changed = start, options, changed
        self.text = ""
        self.tokens: list[Drawn] = []
        self.prompt: list[Drawn] = []
        self.prompt_tokens = self.drawn = 0
        self.reason: str | None = None
        self.error: Refused | None = None
        self._taken = self._taken_tokens = 0

    def take(self) -> Piece | None:
        """What is new; None: nothing.

        Raises:
            Refused: the model failed.
        """
        text, tokens = self.text[self._taken :], self.tokens[self._taken_tokens :]
        self._taken, self._taken_tokens = len(self.text), len(self.tokens)
        if self.error:
            if not (text or tokens):
                raise self.error
            self.changed()  # what is there is taken first
        return Piece(text, tokens, self.reason) if text or tokens or self.reason else None


class _News(NamedTuple):
    """What the thread says of a text."""

    answer: Answer
    text: str
    tokens: list[Drawn]  # that were not told yet
    prompt: list[Drawn]
    prompt_tokens: int
    drawn: int
    reason: str | None
    error: Refused | None = None


class Worker:
    """Runs an engine in a thread of its own; all methods are for the event loop."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine, self._loop = engine, loop
        self._inbox: SimpleQueue[tuple[str, Answer | None]] = SimpleQueue()
        self._open: set[Answer] = set()
        self.broken = False  # the thread is gone
        self._thread = Thread(
            target=_Work(engine, loop, self._inbox, self._hear, self._break).run, daemon=True
        )
        self._thread.start()

    @property
    def open(self) -> int:
        """Texts that run or wait."""
        return len(self._open)

    def ask(self, start: Start, options: Options, changed: Callable[[], object]) -> Answer:
        """Have a text go on; `changed` is called whenever there is something new of it."""
        answer = Answer(start, options, changed)
        self._open.add(answer)
        self._inbox.put(("add", answer))
        return answer

    def drop(self, answer: Answer) -> None:
        """Nobody wants this text any more; one that has ended is no matter."""
        if answer in self._open:
            self._open.remove(answer)
            self._inbox.put(("drop", answer))

    def fail(self, error: Refused) -> int:
        """End all texts with this error; returns how many."""
        failed = [*self._open]
        for answer in failed:
            self.drop(answer)
            answer.error = error
            answer.changed()
        return len(failed)

    def close(self) -> None:
        """No text will be asked for any more: the thread ends after its last."""
        self._inbox.put(("close", None))

    def join(self, seconds: float) -> None:
        """Wait for the thread's end: in the middle of a step, that of the program aborts."""
        self._thread.join(seconds)

    def _hear(self, news: list[_News]) -> None:
        for answer, text, tokens, prompt, prompt_tokens, drawn, reason, error in news:
            if answer not in self._open:  # it was dropped meanwhile
                continue
            if error is None:
                answer.text, answer.prompt, answer.drawn = text, prompt, drawn
                answer.prompt_tokens = prompt_tokens
                answer.tokens += tokens
            answer.reason, answer.error = reason, error
            if reason or error:
                self._open.remove(answer)
            answer.changed()

    def _break(self) -> None:
        self.broken = True
        self.fail(Refused(500, "the model failed"))


class _Work:
    """What the thread does."""

    def __init__(
        self,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        inbox: "SimpleQueue[tuple[str, Answer | None]]",
        hear: Callable[[list[_News]], object],
        end: Callable[[], object],
    ) -> None:
        self.engine, self.loop, self.inbox, self.hear, self.end = engine, loop, inbox, hear, end
        self.texts: dict[Answer, Text] = {}
        self.told: dict[int, tuple[Answer, int]] = {}  # by a text's id: how many of its tokens
        self.closing = False

    def run(self) -> None:
        try:
            while self.engine.busy or not self.closing:
                while not (self.engine.busy or self.closing) or not self.inbox.empty():
                    self._do(*self.inbox.get())
                if self.engine.busy:
                    self._step()
        except Exception as error:  # nothing is known of the engine any more
            log.error("the model failed, and is not served any more", exc_info=error)
            self._call(self.end)
        del self.engine
        return_freed_memory()

    def _do(self, what: str, answer: Answer | None) -> None:
        if answer is None:
            self.closing = True
        elif what == "add":
            try:
                text = self.engine.add(answer.start, answer.options)
            except Exception as error:
                self._tell([_failed(answer, error)])
                return
            self.texts[answer] = text
            self.told[id(text)] = answer, 0
        elif answer in self.texts:
            text = self.texts.pop(answer)
            del self.told[id(text)]
            self.engine.drop(text)

    def _step(self) -> None:
        try:
            changed = self.engine.step()
        except Exception as error:  # nothing is known of any text that runs
            failed = [_failed(answer, error) for answer in self.texts]
            for text in self.texts.values():
                self.engine.drop(text)
            self.texts, self.told = {}, {}
            self._tell(failed)
            return
        news = []
        for text in changed:
            answer, told = self.told[id(text)]
            if text.error:
                news.append(_failed(answer, text.error))
                text.error = None  # it leads to the engine, which would outlive its last text
                del self.texts[answer], self.told[id(text)]
                continue
            new = text.tokens[told:]
            self.told[id(text)] = answer, told + len(new)
            news.append(
                _News(
                    answer,
                    text.text,
                    new,
                    text.prompt,
                    text.prompt_tokens,
                    text.drawn,
                    text.reason,
                )
            )
            if text.reason:
                del self.texts[answer], self.told[id(text)]
        self._tell(news)

    def _tell(self, news: list[_News]) -> None:
        if news:
            self._call(self.hear, news)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Have the event loop do this."""
        with suppress(RuntimeError):  # it has ended, and with it all who listened
            self.loop.call_soon_threadsafe(function, *arguments)


def _failed(answer: Answer, error: Exception) -> _News:
    if isinstance(error, UserError):
        return _News(answer, "", [], [], 0, 0, None, Refused(500, str(error)))
    log.error("the model failed", exc_info=error)
    return _News(answer, "", [], [], 0, 0, None, Refused(500, "the model failed"))
