"""A text while it grows: what of it is certain, and where it ends."""

import codecs
from typing import Literal, NamedTuple

from nanogpt.generation.options import Options
from nanogpt.text.prompt import Start
from nanogpt.text.words.tokenizer import Tokenizer

Likely = tuple[int, bytes, float]  # an id, what it stands for, its log-probability


class Drawn(NamedTuple):
    """One token."""

    id: int
    bytes: bytes  # that it stands for
    logprob: float | None  # in nats, of the model's own distribution; None: was not asked for
    top: list[Likely]  # the likeliest


class Text:
    """A text that runs, or ran.

    Attributes:
        text: what is certain of the new text, without the prompt: never half a character, nor what
            may be the beginning of a stop string. Bytes that are no UTF-8 become U+FFFD.
        tokens: the new tokens that `text` has at least a part of.
        prompt: its tokens, if `prompt_logprobs` asked for them.
        drawn: how many tokens were drawn; those that end a text count.
        reason: why it ended; None: it runs, or failed.
        error: why it failed; None: it did not.
    """

    def __init__(self, start: Start, options: Options, tokenizer: Tokenizer) -> None:
        self.start, self.options = start, options
        self.text = ""
        self.tokens: list[Drawn] = []
        self.prompt: list[Drawn] = []
        self.prompt_tokens = len(start.ids)
        self.drawn = 0
        self.reason: Literal["stop", "length"] | None = None
        self.error: Exception | None = None
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # follows `text`: may be the beginning of a stop string
        self._undecided: list[Drawn] = []  # follow `tokens`
        self._read = self._told = 0  # bytes of all tokens, and of `tokens`

    def spell(self, i: int) -> bytes:
        """What the next token stands for: some decoders take a text's first blank away."""
        spelled = self._tokenizer.spell(i)
        if spelled.startswith(b" ") and not self.drawn and not self.start.text:
            alone = self._tokenizer.decode([i]).encode()
            return alone if alone == spelled[1:] else spelled
        return spelled

    def grow(self, token: Drawn) -> None:
        """Take one more token; a stop string ends the text."""
        self.drawn += 1
        self._undecided.append(token)
        self._read += len(token.bytes)
        self._settle(self._decoder.decode(token.bytes))

    def end(self, reason: Literal["stop", "length"]) -> None:
        """End the text: what was held back belongs to it."""
        self._settle(self._decoder.decode(b"", final=True))
        if self.reason is None:
            self.reason = reason
            self.text += self._held
            self._held = ""
            self._tell(self._read)

    def _settle(self, more: str) -> None:
        unsure = self._held + more
        stop = self.options.stop
        found = [place for place in map(unsure.find, stop) if place >= 0]
        if found:
            self.reason = "stop"
            self.text += unsure[: min(found)]
            held = len(unsure[min(found) :].encode())
            self._held = ""
        else:
            longest = max(map(len, stop), default=1) - 1
            first = max(0, len(unsure) - longest)
            while first < len(unsure) and not any(s.startswith(unsure[first:]) for s in stop):
                first += 1
            self.text += unsure[:first]
            self._held = unsure[first:]
            held = len(self._held.encode())
        self._tell(self._read - len(self._decoder.getstate()[0]) - held)

    def _tell(self, certain: int) -> None:
        """Let `tokens` have those that begin before a byte, or end there."""
        while self._undecided:
            token = self._undecided[0]
            ends = self._told + len(token.bytes)
            if self._told >= certain and ends > certain:
                break
            self._told = ends
            self.tokens.append(self._undecided.pop(0))
