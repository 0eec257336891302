"""Texts that grow together: each joins when a row is free, and leaves when it ends.

engine = Engine(model, tokenizer, slots=8)
text = engine.add(go_on(tokenizer, "ROMEO:"), Options(tokens=100, temperature=0.8, seed=1))
while engine.busy:
    engine.step()
print(text.text)
"""

import random
import traceback
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from nanogpt.common.errors import UserError
from nanogpt.generation.draw import Penalties, draw
from nanogpt.generation.options import Options
from nanogpt.generation.text import Drawn, Likely, Text
from nanogpt.model import GPT, Cache
from nanogpt.text.prompt import Start
from nanogpt.text.words.tokenizer import Tokenizer

SHORT = 256  # tokens, whose logits are computed at once
AHEAD = 256  # tokens of a text that there is room for before they are drawn, at most


class Row:
    """What the engine knows of a text that runs."""

    def __init__(self, text: Text, vocabulary: int, device: torch.device) -> None:
        self.text = text
        self.ids = list(text.start.ids)  # in the context; all but the last are in the cache
        self.whole = True  # they begin with the whole prompt
        # of a negative one it takes the absolute value
        self.numbers = random.Random(text.options.seed % 2**64)
        options = text.options
        self.penalties: Penalties | None = None
        if options.repetition_penalty != 1 or options.presence_penalty or options.frequency_penalty:
            self.penalties = Penalties(options, self.ids, vocabulary, device)


class Engine:
    """Texts by one model; one thread owns it.

    A text is the same alone and beside others: it has a seed of its own. Ids that the tokenizer
    does not have are never drawn: many models have more rows than it, for speed. A text ends at the
    tokenizer's end of document, at each end of the model's own, and at that of its start.

    At the end of the context a text ends, or drops the older half of what it has there: learned
    positions cannot slide, and keys that once saw older tokens would be another model's. What
    begins a text for this tokenizer stays at the front.

    What fails in one text alone, such as its logits or the reading of its prompt, ends it with an
    `error`; those beside it go on.

    Args:
        slots: texts that run at once; others wait.

    Raises:
        UserError: the tokenizer is another model's.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, slots: int) -> None:
        config = model.config
        if tokenizer.vocab_size > config.vocab_size:
            raise UserError(
                f"the tokenizer has ids up to {tokenizer.vocab_size - 1:,}, and the model only"
                f" {config.vocab_size:,} rows: they do not belong together"
            )
        self.model, self.tokenizer, self.slots = model.for_inference(), tokenizer, slots
        self.device = next(model.parameters()).device
        # tokens are drawn in float64, which MPS has not
        self.drawing = torch.device("cpu") if self.device.type == "mps" else self.device
        own = config.eos if isinstance(config.eos, tuple) else (config.eos,)
        self.ends = {*own, tokenizer.eot} - {None}
        never = [i for i in range(config.vocab_size) if i not in tokenizer.ids]
        self.never = torch.tensor(never, dtype=torch.long, device=self.drawing)
        self.cache = Cache(config, 0, 0, self.device, model.head.compute)
        self.rows: list[Row] = []  # each at its place in the cache
        self.waiting: deque[Text] = deque()

    @property
    def busy(self) -> bool:
        """Whether a text runs or waits."""
        return bool(self.rows or self.waiting)

    def check(self, start: Start, options: Options) -> None:
        """Refuse what cannot be done, before the work.

        Raises:
            UserError: the prompt has no token; or more than the context, and the text would end
                there or the prompt's log-probabilities are wanted.
        """
        context = self.model.config.context
        if not start.ids:
            raise UserError("the prompt has no token to go on from; say something")
        if len(start.ids) > context and (options.past == "stop" or options.prompt_logprobs):
            raise UserError(
                f"the prompt has {len(start.ids):,} tokens, and the model's context {context:,};"
                " give a shorter one"
            )

    def add(self, start: Start, options: Options) -> Text:
        """A text, which begins to grow at the next step or when a row is free.

        Of a prompt longer than the context its end is read.

        Raises:
            UserError: as `check`.
        """
        self.check(start, options)
        text = Text(start, options, self.tokenizer)
        self.waiting.append(text)
        return text

    @torch.inference_mode()  # which made the keys that are moved
    def drop(self, text: Text) -> None:
        """Give up a text that runs or waits."""
        if text in self.waiting:
            self.waiting.remove(text)
        for place in [place for place, row in enumerate(self.rows) if row.text is text]:
            self._leave(place)

    @torch.inference_mode()
    def step(self) -> list[Text]:
        """One token for each text that runs: those that got something new, ended or failed."""
        changed = self._join()
        if not self.rows:
            return changed
        context, rows = self.model.config.context, self.rows
        for place, row in enumerate(rows):
            if self.cache.lengths[place] == context:
                self._begin_anew(place, row)
        self._hold(len(rows), max(len(row.ids) for row in rows))
        last = torch.tensor([row.ids[-1:] for row in rows], device=self.device)  # (B, 1)
        logits = self.model(last, cache=self.cache[: len(rows)])[:, -1]  # (B, V)
        logits, finite = self._possible(logits)
        options = [row.text.options for row in rows]
        ids = draw(self._penalised(logits), options, [row.numbers.random() for row in rows])
        likely, drawn = self._likely(logits, ids, options), ids.tolist()
        for place in reversed(range(len(rows))):
            row, i = rows[place], drawn[place]
            text = row.text
            changed.append(text)
            if not finite[place]:
                text.error = self._damaged(place)
            elif i in self.ends or i == text.start.end:
                text.drawn += 1
                text.end("stop")
            else:
                row.ids.append(i)
                if row.penalties:
                    row.penalties.add(i)
                text.grow(Drawn(i, text.spell(i), *likely[place]))
                full = text.options.past == "stop" and self.cache.lengths[place] == context
                if text.reason is None and (full or text.drawn == text.options.tokens):
                    text.end("length")
            if text.reason or text.error:
                self._leave(place)
        return changed

    def _join(self) -> list[Text]:
        """Read the prompts of texts that wait, as many as rows are free.

        Returns:
            Texts that ended with it: of no token, or with a prompt that could not be read.
        """
        ended = []
        for _ in range(min(len(self.waiting), self.slots - len(self.rows))):
            text = self.waiting.popleft()
            row, place = Row(text, self.model.config.vocab_size, self.drawing), len(self.rows)
            context, options = self.model.config.context, text.options
            if len(row.ids) > context:
                row.ids, row.whole = self._newest(row.ids, context), False
            try:
                self._hold(place + 1, len(row.ids) + min(options.tokens, AHEAD))
                twin = self._twin(row)
                if twin is not None and not options.prompt_logprobs:
                    self.cache.copy(twin, place, len(row.ids) - 1)
                else:
                    self._read(place, row)
            except Exception as error:  # such as no memory: it is this prompt's alone
                traceback.clear_frames(error.__traceback__)  # which hold what it had so far
                text.error = error
            else:
                if not options.tokens:
                    text.end("length")
            if text.reason or text.error:
                ended.append(text)
            else:
                self.rows.append(row)
        return ended

    def _hold(self, rows: int, tokens: int) -> None:
        """Have room for so many rows, and so many tokens of each, within the context."""
        held = self.cache.store.shape[3]
        if tokens > held:  # half as much more at least, so that little is copied
            tokens = min(max(tokens, held + held // 2), self.model.config.context)
        self.cache.grow(rows, tokens)

    def _twin(self, row: Row) -> int | None:
        """The place of a text with the same prompt, whose keys are still there."""
        ids = row.ids
        for place, other in enumerate(self.rows):
            if row.whole and other.whole and other.text.start.ids == ids:
                return place
        return None

    def _read(self, place: int, row: Row) -> None:
        """Read all ids of a row but the last, alone: then they do not depend on other rows."""
        text, ids = row.text, row.ids
        cache = self.cache[place : place + 1]
        cache.lengths.zero_()
        likely: list[tuple[float | None, list[Likely]]] = [(None, [])]
        asked = text.options.prompt_logprobs and not text.prompt
        if len(ids) > 1:
            read = torch.tensor([ids[:-1]], device=self.device)  # (1, T)
            x = self.model.read(read, cache)[0]  # (T, C)
            # not all logits at once: (T, V) of a long prompt are more than the model
            for first in range(0, len(x), SHORT) if asked else ():
                logits, finite = self._possible(self.model.logits(x[first : first + SHORT]))
                if not all(finite):
                    raise self._damaged(place)
                after = torch.tensor(ids[first + 1 :][: len(logits)], device=self.drawing)
                likely += self._likely(logits, after, [text.options] * len(after))
        if asked:
            spell = self.tokenizer.spell
            text.prompt = [Drawn(i, spell(i), *of) for i, of in zip(ids, likely, strict=True)]

    def _begin_anew(self, place: int, row: Row) -> None:
        row.ids, row.whole = self._newest(row.ids, max(1, self.model.config.context // 2)), False
        self._read(place, row)

    def _newest(self, ids: list[int], count: int) -> list[int]:
        """The last of these ids, after what begins a text."""
        begin = list(self.tokenizer.begin)
        if begin and len(begin) < count and ids[: len(begin)] == begin:
            return begin + ids[len(begin) - count :]
        return ids[-count:]

    def _leave(self, place: int) -> None:
        """Free a row: the last one takes its place."""
        last = self.rows.pop()
        if place < len(self.rows):
            self.rows[place] = last
            self.cache.copy(len(self.rows), place, int(self.cache.lengths[len(self.rows)]))

    def _possible(self, logits: Tensor) -> tuple[Tensor, list[bool]]:
        """Logits (B, V) of the tokens that there are, on the device where they are drawn.

        And whether all of a row are finite; else there are zeros in their place.
        """
        logits = logits.to(self.drawing)
        # a NaN or an infinity stays one in the sum, and in float64 no sum of others overflows
        finite = logits.sum(dim=-1, dtype=torch.float64).isfinite()
        told: list[bool] = finite.tolist()
        if not all(told):
            logits = logits.masked_fill(~finite[:, None], 0.0)
        if len(self.never):
            logits = logits.index_fill(-1, self.never, -torch.inf)
        return logits, told

    def _damaged(self, place: int) -> UserError:
        """What to say of a row whose logits are NaN or infinite; its keys become finite."""
        # later texts would meet them there: a mask weighs by 0, and 0 times NaN is NaN
        self.cache.store[:, place].nan_to_num_(0.0, 0.0, 0.0)
        half = self.model.head.compute == torch.float16
        return UserError(
            "the model computes NaN or infinite logits: its weights are damaged"
            + ", or too large for float16; try machine.dtype float32" * half
        )

    def _penalised(self, logits: Tensor) -> Tensor:
        """Logits (B, V) without what each row's penalties take."""
        if not any(row.penalties for row in self.rows):
            return logits
        rows = zip(self.rows, logits, strict=True)
        return torch.stack([row.penalties(own) if row.penalties else own for row, own in rows])

    def _likely(
        self, logits: Tensor, ids: Tensor, options: Sequence[Options]
    ) -> list[tuple[float | None, list[Likely]]]:
        """The log-probability of each row's id, and its likeliest tokens, where these are wanted.

        Args:
            logits: (B, V).
            ids: (B,).
        """
        wanted = [one.logprobs for one in options]
        if all(n is None for n in wanted):
            return [(None, [])] * len(wanted)
        logprobs = logits.log_softmax(dim=-1)
        own = logprobs.gather(-1, ids[:, None])[:, 0].tolist()
        most = min(max(n or 0 for n in wanted), len(self.tokenizer.ids))
        values, likeliest = (found.tolist() for found in logprobs.topk(most))
        spell = self.tokenizer.spell
        return [
            (None, [])
            if n is None
            else (own[row], [(i, spell(i), v) for i, v in [*zip(*top, strict=True)][:n]])
            for row, (n, *top) in enumerate(zip(wanted, likeliest, values, strict=True))
        ]
