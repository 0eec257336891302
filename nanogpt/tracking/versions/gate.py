"""Which version becomes the champion: one that is better by more than noise, scored now.

    outcome = challenge(client, version, Trial(scores, text, context, settings.eval, machine))

Whatever is compared is scored on the same text by the same code, in float32; so champions of other
texts and tokenizers can be challenged, and no old figure is trusted.

Two machines may decide at once, and MLflow has no operation that sets an alias only if nobody else
has. But a move is recorded before the alias is set (`history`). So whoever has set it looks again:
a move that was recorded since the first look is of a rival that this one did not know, and all are
compared anew. Who sets the alias last sees the record of every other, and so leaves the best there.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanogpt.scoring.blocks import Scores
from nanogpt.scoring.paired import Difference, paired
from nanogpt.settings import Eval
from nanogpt.tracking.trouble import explain
from nanogpt.tracking.versions import history
from nanogpt.tracking.versions.advantage import advantage
from nanogpt.tracking.versions.history import CHAMPION, Move
from nanogpt.tracking.versions.trial import Trial, rescored

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

OPEN = timedelta(days=1)  # so long a move that no later one knows of counts as a rival's


@dataclass(frozen=True)
class Outcome:
    """What became of a version after its evaluation; `reason` is a sentence to print."""

    reason: str
    promoted: bool = False
    name: str | None = None
    version: str | None = None
    difference: Difference | None = None  # from the champion that it met


def challenge(client: "MlflowClient", version: Any, trial: Trial) -> Outcome:
    """Have a version challenge the champion of its registered model, on the text of its trial.

    Raises:
        Exception: MLflow does not answer, or refuses.
    """
    name, number = version.name, str(version.version)
    if not np.isfinite(trial.scores.nats).all():
        its = trial.scores.figures()["bits_per_byte"]
        reason = f"not promoted: {its} bits per byte, which no model of use has"
        return Outcome(reason, False, name, number)
    history.notice(client, name)
    try:
        return _Decision(client, name, number, trial).outcome()
    except _Unloadable as error:
        reason = (
            f"not decided, and nothing is moved: {error};"
            f' `make promote MODEL=models:/{name}/{number} REASON="..."` decides without it'
        )
        return Outcome(reason, False, name, number)


def is_better(found: Difference, rule: Eval) -> bool:
    """Whether a difference is more than noise.

    The interval knows what another text would change, and nothing of what another seed of the
    training would: that is what the least gain is for.
    """
    return found.low > 0 and found.gain >= rule.least_gain


def bits(scores: Scores) -> float:
    """Bits per byte of the text, but for the blocks that the model cannot read."""
    read = ~np.isposinf(scores.nats)
    if read.all() or not read.any():
        return scores.figures()["bits_per_byte"]
    return float(scores.nats[read].sum() / scores.bytes[read].sum() / math.log(2))


def difference(new: Scores, old: Scores, confidence: float) -> Difference:
    """Between two models, on the blocks that both can read, if these are half of the text.

    Else a block that cannot be read counts as it is: as an infinite loss.
    """
    read = ~np.isposinf(new.nats) & ~np.isposinf(old.nats)
    if new.bytes[read].sum() < new.bytes.sum() / 2:
        return paired(new, old, confidence)
    return paired(_part(new, read), _part(old, read), confidence)


def _part(scores: Scores, kept: NDArray[np.bool_]) -> Scores:
    """Some of the blocks."""
    nats, sizes, document = scores.nats[kept], scores.bytes[kept], scores.document[kept]
    return replace(scores, nats=nats, bytes=sizes, document=document)


class _Unloadable(Exception):
    """A version that cannot be scored here, and why."""


class _Decision:
    """One version's decision, until no rival is left that it does not know."""

    def __init__(self, client: "MlflowClient", name: str, number: str, trial: Trial) -> None:
        self.client, self.name, self.number, self.trial = client, name, number, trial
        self.scored = {number: trial.scores}
        self.told: dict[str, str] = {}  # what speaks against the scores of champions
        self.look()

    def outcome(self) -> Outcome:
        taken = history.taken_back(self.known, CHAMPION, self.number, self.made)
        if taken and self.number != self.holder:
            reason = (
                f"not promoted: version {self.number} was taken back on"
                f" {taken.when[:16].replace('T', ' ')} UTC ({taken.why})"
            )
            return Outcome(reason, False, self.name, self.number)
        winner, reason = self.winner()
        while self.news():  # while it was scored
            self.look()
            winner, reason = self.winner()
        before = self.holder
        if winner != self.holder:
            self.move(winner, reason)
            while self.learn():
                winner, reason = self.winner()
                self.move(winner, reason)
        promoted = winner == self.number != before
        return Outcome(reason, promoted, self.name, self.number, self.difference(self.number))

    def look(self) -> None:
        """See which version is champion, and who is about to take its place."""
        model = self.client.get_registered_model(self.name)
        self.made = model.creation_timestamp
        self.known = self.moves()
        self.holder = str(model.aliases.get(CHAMPION, ""))
        self.contenders = {self.number} | _rivals(self.known, self.holder)

    def moves(self) -> list[Move]:
        """Of this champion's alias; a registered model made anew counts from version 1 again."""
        found = history.moves(self.client, self.name)
        return [move for move in found if (move.alias, move.model) == (CHAMPION, self.made)]

    def news(self) -> list[Move]:
        """Moves that were recorded since the last look."""
        known = {move.id for move in self.known}
        return [move for move in self.moves() if move.id not in known]

    def learn(self) -> bool:
        """Take in what was recorded since the last look; says whether it changes anything."""
        before = self.holder, self.contenders
        for move in self.news():
            if move.by == "gate":
                self.contenders = self.contenders | {move.after}
            elif move.by != "hand" or move.after not in self.contenders:  # a person's word
                self.holder, self.contenders = move.after, {self.number}
        return before != (self.holder, self.contenders)

    def winner(self) -> tuple[str, str]:
        """The best of those that are better than the champion by more than noise, and why.

        It depends on the champion, the contenders and the text alone, so two machines agree.
        """
        if self.holder:
            self.scores(self.holder)
        fit = [v for v in self.contenders - {self.holder} if self.is_better(v)]
        best = min(fit, key=lambda v: (bits(self.scores(v)), int(v)), default=self.holder)
        mine = f"{bits(self.scores(self.number)):.4f} bits per byte"
        if best not in (self.number, self.holder):
            rival = f"version {best}, of the same time, is champion, as it is the better one:"
            return best, f"{rival} {bits(self.scores(best)):.4f} bits per byte, this one {mine}"
        if best == self.number == self.holder:
            return best, f"the champion already: {mine}"
        if not self.holder:
            first = "champion, as no version was any more" if self.known else "the first champion"
            return best, f"{first}: {mine}"
        figures = f"{mine}, version {self.holder} {bits(self.scores(self.holder)):.4f}"
        said = f"{self.difference(self.number)} ({'; '.join([figures, *self.asides()])})"
        if best == self.number:
            return best, f"champion in place of version {self.holder}: {said}"
        least = f"it takes an interval above 0 and a gain of {100 * self.trial.rule.least_gain:g} %"
        return best, f"version {self.holder} stays champion: {said}; {least}"

    def asides(self) -> list[str]:
        """What else speaks for or against the scores of this version and the champion."""
        new, old, found = self.scores(self.number), self.scores(self.holder), []
        if lost := int(np.isposinf(old.nats).sum()):
            blocks = f"{lost:,} blocks of {len(old.nats):,}"
            found.append(f"version {self.holder}'s vocabulary lacks characters in {blocks}")
        for version, scores in ((self.number, new), (self.holder, old)):
            if scores.unknown and new.unknown != old.unknown:
                found.append(
                    f"version {version}'s tokenizer has nothing for {scores.unknown:,} bytes, which"
                    " cost it little, so its score is better than it should be"
                )
        if self.holder not in self.told:
            text = self.trial.text
            self.told[self.holder] = advantage(self.client, self.name, self.holder, text)
        if said := self.told[self.holder]:
            found.append(f"version {self.holder} {said}")
        return found

    def is_better(self, version: str) -> bool:
        """Than the champion of before, by more than noise."""
        try:
            its = bits(self.scores(version))
        except _Unloadable as error:
            log.warning("%s; it is no rival", error)
            return False
        found = self.difference(version)
        return is_better(found, self.trial.rule) if found else math.isfinite(its)

    def difference(self, version: str) -> Difference | None:
        """From the champion of before, if there is another."""
        if self.holder in ("", version):
            return None
        rule = self.trial.rule
        return difference(self.scores(version), self.scores(self.holder), rule.confidence)

    def move(self, version: str, reason: str) -> None:
        """Record it, and set the alias."""
        scores = {v: _number(round(bits(each), 6)) for v, each in self.scored.items()}
        found, rule = self.difference(version), self.trial.rule
        evidence: dict[str, Any] = {"text_sha256": self.trial.text.digest, "bits_per_byte": scores}
        if found:
            evidence |= {k: _number(v) for k, v in asdict(found).items()} | rule.model_dump()
        history.move(self.client, self.name, CHAMPION, version, reason, evidence, by="gate")

    def scores(self, version: str) -> Scores:
        """Of any version, on the text of this trial; scored once.

        Raises:
            _Unloadable: it cannot be scored here.
        """
        if version not in self.scored:
            try:
                self.scored[version] = rescored(self.client, self.name, version, self.trial)
            except Exception as error:
                trouble = explain(error)
                if trouble.passing:
                    raise
                said = f"version {version} cannot be scored here: {trouble.reason}"
                raise _Unloadable(said) from None
        return self.scored[version]


def _number(value: float) -> float | None:
    """What JSON has of a number, in which there is none for a loss that is infinite or NaN."""
    return value if math.isfinite(value) else None


def _rivals(moves: Iterable[Move], holder: str) -> set[str]:
    """Versions whose move is recorded, but that no later one was compared with at its place.

    Another machine is about to make them champion, or has seen another take their place unseen.
    """
    since = (datetime.now(UTC) - OPEN).isoformat()
    found: set[str] = set()
    for move in moves:
        if move.by == "hand" and move.after in found:
            continue  # what two at once look like to `notice`
        if move.by != "gate":
            found.clear()  # a person's word
            continue
        if move.before in move.evidence.get("bits_per_byte", ()):  # else it was overwritten unseen
            found.discard(move.before)
        if move.when > since:
            found.add(move.after)
    return found - {holder}
