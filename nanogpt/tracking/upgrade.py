"""Bring a local database of an older MLflow to the form of the installed one, with a copy kept.

upgrade()         # `nanogpt upgrade-mlflow`
"""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from filelock import FileLock, Timeout

from nanogpt.common.errors import NotNow, UserError
from nanogpt.tracking import location

BUSY_SECONDS = 10  # for another process that is at the database


def upgrade() -> str:
    """Copy the database, then have MLflow upgrade it; if that fails it is as it was.

    Returns:
        What was done.

    Raises:
        UserError: it is a server's, is not there, or MLflow cannot upgrade it.
        NotNow: another process is at it.
    """
    uri = location.tracking_uri()
    if not uri.startswith(location.SQLITE):
        raise UserError(
            f"{location.address()} is not a database of this machine; whoever runs it keeps a copy"
            " and runs `mlflow db upgrade`"
        )
    database = location.database_of(uri)
    if not database.exists():
        raise UserError(f"{database} is not there, so there is nothing to upgrade")
    try:
        with FileLock(f"{database}.lock", timeout=BUSY_SECONDS):
            before, known = location.schema(database), location.schema_versions()
            if before == known[-1]:
                return f"{database} is of the installed MLflow already; nothing was changed"
            if before not in known:
                raise UserError(
                    f"{database} was made by a newer MLflow than the installed one, or by none"
                )
            copy = _keep(database, before)
            _run(database, copy)
    except (Timeout, sqlite3.Error) as error:
        if isinstance(error, Timeout) or "locked" in str(error):
            raise NotNow(f"another process is at {database}; end it, such as `make ui`") from None
        raise UserError(f"{database} is of no use to MLflow ({error})") from None
    return f"{database} is of the installed MLflow now; as it was before it is in {copy}"


def _keep(database: Path, version: str) -> Path:
    """Copy a database beside itself, whole also while others read it."""
    copy = database.with_name(f"{database.name}.{version}")
    number = 1
    while copy.exists():
        number += 1
        copy = database.with_name(f"{database.name}.{version}-{number}")
    _copy(database, copy)
    return copy


def _copy(source: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(source, timeout=BUSY_SECONDS)) as old,
        closing(sqlite3.connect(target, timeout=BUSY_SECONDS)) as new,
    ):
        old.backup(new)


def _run(database: Path, copy: Path) -> None:
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"{location.SQLITE}{database}"]
    environment = location.ENVIRONMENT | os.environ
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    if done.returncode == 0 and location.schema(database) == location.schema_versions()[-1]:
        return
    _copy(copy, database)
    *_, last = done.stderr.strip().splitlines() or ["no message"]
    raise UserError(
        f"MLflow cannot upgrade {database}, which is as it was, and kept in {copy}: {last}"
    )
