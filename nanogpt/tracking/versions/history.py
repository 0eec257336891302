"""Every move of every alias: when, from, to, why, who, and on what evidence.

    move(client, "nanogpt-plays", "champion", "3", "0.8 % better", evidence={...}, by="gate")
    notice(client, "nanogpt-plays")         # an alias that somebody set on MLflow's page since
    moves(client, "nanogpt-plays")          # all, the oldest first

A move is a tag of the recipe's experiment, with a name of its own: none takes another's place, of
two machines that write at once both are kept, and they outlive the registered model. MLflow's pages
hide tags whose names begin with `mlflow.`; the model's description shows the last few moves.
"""

import json
import logging
import os
import subprocess
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psutil

from nanogpt.common.errors import UserError
from nanogpt.common.secrets import public
from nanogpt.tracking import describe, location
from nanogpt.tracking.code import GIT
from nanogpt.tracking.run import experiment
from nanogpt.tracking.versions.names import PREFIX, there

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

CHAMPION = "champion"
TAG = "mlflow.nanogpt.move."
TOGETHER = timedelta(minutes=1)  # two moves that were made at once
HAND = "set by hand"
FOUND = "found when this history began"


@dataclass(frozen=True)
class Move:
    """One move of an alias.

    Attributes:
        when: UTC, to the microsecond; later than that of any move recorded before.
        name: of the registered model.
        before: the version that had the alias; "" none.
        after: the version that has it; "" none.
        who: a person, and the commit of the code; "" where nobody knows.
        by: what moved it: training, gate, promote, rollback; "hand" all else; "" found.
        evidence: scores, interval, digest of the text: whatever decided it.
        model: when the registered model was made, in ms; one made anew counts from version 1 again.
        done: the alias was set; else the process ended in between, or is at it now.
    """

    when: str
    name: str
    alias: str
    before: str
    after: str
    why: str
    who: str = ""
    by: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    model: int = 0
    done: bool = True
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @property
    def tag(self) -> str:
        """The name of the tag that holds it."""
        return f"{TAG}{self.when}.{self.id}"


def moves(client: "MlflowClient", name: str) -> list[Move]:
    """All recorded moves of a registered model's aliases, the oldest first."""
    found = client.get_experiment_by_name(name.removeprefix(PREFIX))
    tags = found.tags if found else {}
    read = [_read(key, text) for key, text in sorted(tags.items()) if key.startswith(TAG)]
    return [move for move in read if move.name == name]


def move(
    client: "MlflowClient",
    name: str,
    alias: str,
    version: str,
    why: str,
    evidence: Mapping[str, Any] | None = None,
    by: str = "",
) -> Move:
    """Record that an alias moves to a version, and move it.

    What was moved by hand before is recorded first. Nothing happens where the alias is there.

    Args:
        why: a sentence.
        by: what moves it: training, gate, promote, rollback.

    Raises:
        Exception: MLflow does not answer, or refuses.
    """
    notice(client, name)
    model = client.get_registered_model(name)
    before = str(model.aliases.get(alias, ""))
    known = moves(client, name)
    new = Move(
        _later(known),
        name,
        alias,
        before,
        version,
        public(_line(why)),
        _person(),
        by,
        evidence or {},
        model.creation_timestamp,
        done=False,
    )
    if before == version:
        return replace(new, done=True)
    # the record first: a move that nobody can explain is worse than one that is told twice
    place = experiment(client, name.removeprefix(PREFIX))
    _record(client, place, new)
    client.set_registered_model_alias(name, alias, version)
    new = replace(new, done=True)
    _record(client, place, new)
    if alias == CHAMPION:
        _show(client, name, [*known, new])
    return new


def notice(client: "MlflowClient", name: str) -> list[Move]:
    """Record, and tell in a line, each alias that is not where its last recorded move left it.

    Somebody set it on MLflow's page or by MLflow's client, removed it, deleted its version or the
    whole model. What was there before this history began is recorded as found.

    Returns:
        What was recorded.
    """
    while True:  # until nobody writes in between
        known = moves(client, name)
        model = there(client.get_registered_model, name)
        if known == moves(client, name):
            break
    aliases = {alias: str(number) for alias, number in model.aliases.items()} if model else {}
    made = model.creation_timestamp if model else 0
    last = {move.alias: move for move in known}
    found, finished = [], []
    for alias in sorted({*last, *aliases}):
        now = aliases.get(alias, "")
        by, evidence = "hand", {}
        if (before := last.get(alias)) is None:
            old = describe.rows(model.description) if alias == CHAMPION else []
            if known:
                why = HAND
            else:
                why, by, evidence = FOUND, "", {"page": old} if old else {}
        elif made != before.model and (before.after or now):
            state = f"made again on {_date(made)}" if model else "is not there now"
            why = f"{name} was deleted, and {state}"
        elif now and now == before.after and not before.done:
            finished.append(replace(before, done=True))  # whoever set it was ended right after
            continue
        elif now != before.after and (before.done or now != before.before):
            why = _how(client, before, now, known)
        else:
            continue
        was = before.after if before else ""
        found.append(Move("", name, alias, was, now, why, "", by, evidence, made))
    if not found and not finished:
        return []
    place = experiment(client, name.removeprefix(PREFIX))
    for move in finished:
        _record(client, place, move)
        known = [move if old.id == move.id else old for old in known]
    for number, new in enumerate(found):
        found[number] = replace(new, when=_later(known))
        known.append(found[number])
        _record(client, place, found[number])
        if last:
            log.warning("%s: %s; it is recorded (`nanogpt history`)", name, told(found[number]))
    if model and any(new.alias == CHAMPION for new in [*found, *finished]):
        _show(client, name, known)
    return found


def told(move: Move) -> str:
    """A move in a clause."""
    before, after = (f"version {v}" if v else "none" for v in (move.before, move.after))
    return f"alias {move.alias} went from {before} to {after} ({move.why})"


def former(moves: Iterable[Move], alias: str, model: int) -> list[str]:
    """The versions that a rollback of an alias can go to, the latest last.

    A move pushes its version; a rollback pops down to its own. So going back twice goes two
    versions back, and not to and fro.

    Args:
        model: when the registered model was made; versions of one before it are other models.
    """
    stack: list[str] = []
    for move in moves:
        if move.alias != alias or move.model != model or not move.done or not move.after:
            continue
        if move.by == "rollback" and move.after in stack:
            while stack[-1] != move.after:
                stack.pop()
        elif stack[-1:] != [move.after]:
            stack.append(move.after)
    return stack


def taken_back(moves: Iterable[Move], alias: str, version: str, model: int) -> Move | None:
    """The move by which a person took this alias from a version, unless it was given it since.

    Args:
        model: when the registered model was made.
    """
    found = None
    for move in moves:
        if move.alias == alias and move.model == model and move.done:
            if move.before == version and move.by in ("promote", "rollback", "hand"):
                found = move
            elif move.after == version:
                found = None
    return found


def _line(text: str) -> str:
    """A text as one line that any terminal and page can show."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _read(tag: str, text: str) -> Move:
    try:
        return Move(**json.loads(text))
    except (TypeError, ValueError):
        raise UserError(
            f"the tag {tag} of its experiment is no move that this code wrote; a newer version of"
            " this code may read it, or remove the tag by MLflow's client"
        ) from None


def _record(client: "MlflowClient", experiment_id: str, move: Move) -> None:
    client.set_experiment_tag(experiment_id, move.tag, json.dumps(asdict(move)))


def _show(client: "MlflowClient", name: str, known: list[Move]) -> None:
    """The last moves of the champion, on the model's page."""
    text = client.get_registered_model(name).description
    champions = [move for move in known if move.alias == CHAMPION and move.done]
    rows = [(m.when[:16].replace("T", " "), m.after, m.before, m.why) for m in champions[::-1]]
    about = text or describe.registered(name.removeprefix(PREFIX))
    client.update_registered_model(name, describe.champions(about, rows))


def _how(client: "MlflowClient", last: Move, now: str, known: Iterable[Move]) -> str:
    """Why an alias is not where its last move left it, as far as that can be known."""
    same = [move for move in known if move.alias == last.alias and move.after == now]
    if now and same and _time(last.when) - _time(same[-1].when) < TOGETHER:
        return "two moves at once, of which this one came last"
    since = f"since {_date(_time(last.when).timestamp() * 1000)}"
    if not now and not there(client.get_model_version, last.name, last.after):
        return f"version {last.after} was deleted {since}"
    if not now:
        return f"removed by hand {since}"
    return f"{HAND} {since}"


def _later(known: list[Move]) -> str:
    """Now, or just after the last recorded move if that machine's clock is ahead of this one's."""
    now = datetime.now(UTC)
    if known:
        now = max(now, _time(known[-1].when) + timedelta(microseconds=1))
    return now.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _time(when: str) -> datetime:
    return datetime.fromisoformat(when)


def _date(ms: float) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _person() -> str:
    """Who runs this, and at which commit."""
    user: str = psutil.Process().username()
    if location.tracking_uri().startswith("http"):
        user = os.environ.get("MLFLOW_TRACKING_USERNAME") or user
    try:
        head = subprocess.run([*GIT, "rev-parse", "--short", "HEAD"], capture_output=True)
    except FileNotFoundError:
        return user
    commit = head.stdout.decode().strip()
    return f"{user} at {commit}" if head.returncode == 0 and commit else user
