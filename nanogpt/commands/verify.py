"""Prove that a folder holds the model that somebody signed, and tell what it was made of.

nanogpt verify attested/nanogpt-shakespeare-3 --key public.pem
nanogpt verify models:/nanogpt-shakespeare@champion --key public.pem

A folder needs neither MLflow nor a network.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanogpt.common.errors import UserError
from nanogpt.proof.signature import Verifier, by_identity, by_key, check, shown
from nanogpt.proof.statement import PROVENANCE, subjects, tell, validate, version


def verifier(key: Path | None, identity: str | None, issuer: str | None) -> Verifier:
    """Who must have signed, as the options say it.

    Raises:
        UserError: they name nobody, or two, or no key.
    """
    if key and not (identity or issuer):
        return by_key(key.expanduser())
    if identity and issuer and not key:
        return by_identity(identity, issuer)
    raise UserError(
        "say who must have signed: --key public.pem (KEY=), or --identity and --issuer for a"
        " signature without a key"
    )


def verify(model: str, who: Verifier) -> None:
    """Check a signed folder, or a version and its proof as MLflow has them; print what it proves.

    Raises:
        UserError: it is not what was signed: what differs, a file a line.
        NotNow: MLflow does not answer.
    """
    with _open(model) as (folder, asked):
        signed, statement = prove(folder, who)
    if asked and version(statement) != asked:
        raise UserError(
            f"the proof of {model} is of {' version '.join(map(str, version(statement)))}"
        )
    print(f"{model}: {len(signed)} files, each as it was signed")
    print(f"  {'signed by':<10} {who.who}")
    for what, value in tell(statement):
        print(f"  {what:<10} {shown(value)}")


def prove(folder: Path, who: Verifier) -> tuple[dict[str, str], dict[str, Any]]:
    """The signed files of a folder, with their SHA-256, and the statement about them.

    Raises:
        UserError: the signature does not hold for all files, or the statement is of others.
    """
    signed = check(folder, who)
    if PROVENANCE not in signed:
        raise UserError(f"{PROVENANCE} is missing: these files are signed, but nothing says whence")
    statement = read(folder)
    about = subjects(statement)
    others = {name: signed[name] for name in signed if name != PROVENANCE}
    if about != others:
        wrong = sorted(
            name for name in about.keys() | others if about.get(name) != others.get(name)
        )
        raise UserError(f"{PROVENANCE} is not about these files: {', '.join(map(shown, wrong))}")
    return signed, statement


def read(folder: Path) -> dict[str, Any]:
    """The statement in a folder.

    Raises:
        UserError: it is none.
    """
    try:
        statement = json.loads((folder / PROVENANCE).read_bytes())
        validate(statement)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{PROVENANCE} is no in-toto statement: {error}") from None
    return dict(statement)


@contextmanager
def _open(model: str) -> Iterator[tuple[Path, tuple[str, str] | None]]:
    """The folder, and the version that it must be of."""
    if not model.startswith("models:"):
        yield Path(model), None
        return
    # with MLflow and torch, which a folder does without
    from nanogpt.commands.export import open_model
    from nanogpt.tracking.versions import attested
    from nanogpt.tracking.versions.names import look_up

    found = look_up(model)
    with tempfile.TemporaryDirectory() as temporary:
        proof = attested.fetch(found.name, found.number, Path(temporary))
        with open_model(found.uri) as (_, folder):
            for path in proof:
                if (folder / path.name).exists():  # it would hide what MLflow has there
                    raise UserError(f"the proof of {model} and the model both have {path.name}")
                shutil.copyfile(path, folder / path.name)
            yield folder, (found.name, found.number)
