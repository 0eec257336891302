"""What a person decides about champions: another version, or the one before.

    promote(client, "models:/nanogpt-plays/3", "sounds better")
    rollback(client, "nanogpt-plays", "forgets its lines")

Each move, and its reason, is in `history`. The gate does not give the alias back to a version that
a person took it from; `promote` does.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanogpt.common.errors import UserError
from nanogpt.tracking import describe
from nanogpt.tracking.trouble import explain
from nanogpt.tracking.versions import history
from nanogpt.tracking.versions.history import CHAMPION, Move
from nanogpt.tracking.versions.names import PREFIX, Version, registered_model, resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST = 1000  # characters of a reason
FACTS = ("eval_bits_per_byte", "eval_text_sha256")  # tags of a version that tell how good it is


@dataclass(frozen=True)
class Change:
    """What became of a promotion or a rollback.

    Attributes:
        skipped: versions that a rollback passed over, with why.
        moved: else nothing was to do.
    """

    move: Move
    skipped: tuple[str, ...] = ()
    moved: bool = True


def promote(client: "MlflowClient", model: str, reason: str) -> Change:
    """Make a version champion, whatever it scores.

    Raises:
        UserError: there is no such version, its files are gone, or there is no reason.
        Exception: MLflow does not answer.
    """
    _check_reason(reason)
    found = resolve(client, model)
    _check_ours(found.name)
    if fault := _fault(found):
        raise UserError(f"{found.uri} cannot be champion: {fault}")
    return _move(client, found, reason, "promote")


def rollback(client: "MlflowClient", name: str, reason: str) -> Change:
    """Give the alias to the champion before the present one; the next time, to the one before that.

    A version that was deleted since, or has lost its files, is passed over.

    Raises:
        UserError: there was none before, or there is no reason.
        Exception: MLflow does not answer.
    """
    _check_reason(reason)
    _check_ours(name)
    registered = registered_model(client, name)
    history.notice(client, name)
    known = history.moves(client, name)
    now = str(registered.aliases.get(CHAMPION, ""))
    skipped: list[str] = []
    for number in reversed(history.former(known, CHAMPION, registered.creation_timestamp)):
        if number == now:
            continue
        try:
            found = resolve(client, f"models:/{name}/{number}")
        except UserError:
            skipped.append(f"version {number}: it was deleted")
            continue
        if fault := _fault(found):
            skipped.append(f"version {number}: {fault}")
            continue
        return _move(client, found, reason, "rollback", tuple(skipped))
    state = f"version {now}, the champion," if now else f"{name}, which has no champion,"
    passed = f" ({'; '.join(skipped)})" if skipped else ""
    raise UserError(
        f"{state} had no champion before it that could be it again{passed}; any version can be:"
        f" `make promote MODEL=models:/{name}/<version> REASON=...`"
    )


def _move(
    client: "MlflowClient", found: Version, reason: str, by: str, skipped: tuple[str, ...] = ()
) -> Change:
    registered = registered_model(client, found.name)
    holder = str(registered.aliases.get(CHAMPION, ""))
    evidence: dict[str, Any] = {found.number: _facts(found)}
    if holder and holder != found.number:
        evidence[holder] = _facts(resolve(client, f"models:/{found.name}/{holder}"))
    move = history.move(client, found.name, CHAMPION, found.number, reason, evidence, by)
    if move.before == found.number:
        return Change(move, skipped, moved=False)
    told = f"champion by {by}: {move.why}"
    text = describe.decided(found.about.description, told)
    client.update_model_version(found.name, found.number, text)
    return Change(move, skipped)


def _facts(found: Version) -> dict[str, str]:
    return {key: found.about.tags[key] for key in FACTS if key in found.about.tags}


def _fault(found: Version) -> str:
    """Why a version is of no use, or nothing."""
    from mlflow.artifacts import list_artifacts

    try:
        return "" if list_artifacts(artifact_uri=found.uri) else "its files are gone"
    except Exception as error:
        if (trouble := explain(error)).passing:  # which says nothing of the files
            raise
        return f"its files are not to be had ({trouble.reason})"


def _check_reason(reason: str) -> None:
    if not any(c.isprintable() and not c.isspace() for c in reason):
        raise UserError("say why: REASON='...' (--reason), which the history keeps")
    if len(reason) > LONGEST:
        raise UserError(f"a reason of {len(reason):,} characters is too long; {LONGEST:,} fit")


def _check_ours(name: str) -> None:
    if not name.startswith(PREFIX):
        raise UserError(
            f"{name} is not the model of a recipe, which is called {PREFIX}<recipe>; set its alias"
            " on MLflow's page"
        )
