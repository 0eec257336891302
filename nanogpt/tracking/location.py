"""Where MLflow keeps its records when nothing else is said: `mlflow.db` and `mlruns/` at the root.

These are MLflow's own defaults, so a bare `mlflow ui` in the root shows everything.
"""

import importlib.util
import os
import re
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from nanogpt.common.errors import UserError
from nanogpt.common.place import root
from nanogpt.common.secrets import public

SQLITE = "sqlite:///"
PREPARE_SECONDS = 60  # for another process that makes the tables, which takes it two
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ENVIRONMENT = {  # read when mlflow is imported; the user's own wins
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds of silence
    # what fails stays on disk and is sent again, or is fetched again: nothing need wait in there
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the database at the root of the repository.

    A relative path of a database is seen from there as well, wherever the command runs.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    if not uri.startswith(SQLITE):
        return uri
    path, mark, options = uri.removeprefix(SQLITE).partition("?")
    return f"{SQLITE}{(root() / path).as_posix()}{mark}{options}"


def address() -> str:
    """Which MLflow that is, without anyone's password; a database at the root keeps it if moved."""
    uri = tracking_uri()
    if uri.startswith(SQLITE) and (database := database_of(uri)).is_relative_to(root()):
        return f"{SQLITE}{database.relative_to(root()).as_posix()}"
    return public(uri)


def direct() -> dict[str, str]:
    """Variables that keep a proxy from between this machine and itself, where one is set."""
    if not urllib.request.getproxies():
        return {}
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in known.split(",") if host.strip()]
    if "*" not in hosts:
        hosts += [host for host in LOOPBACK if host not in hosts]
    return {"no_proxy": ",".join(hosts), "NO_PROXY": ",".join(hosts)}


def outbox() -> Path:
    """Where records wait that MLflow has not taken yet: beside the recipes' artifacts."""
    return root() / "data" / ".outbox"


def artifact_location(uri: str, recipe: str) -> str | None:
    """Where a recipe's artifacts go: beside a local database; a server decides for itself."""
    if not uri.startswith(SQLITE):
        return None
    return (database_of(uri).parent / "mlruns" / recipe).as_posix()


@contextmanager
def prepared(uri: str) -> Iterator[None]:
    """One process at a time: MLflow makes its tables inside, and two at once would break them.

    A database that was copied or moved with its repository finds its artifacts there afterwards.
    """
    if not uri.startswith(SQLITE):
        yield
        return
    database = database_of(uri)
    making = database.with_name(database.name + ".making")
    check(uri)
    with FileLock(f"{database}.lock", timeout=PREPARE_SECONDS):
        if making.exists():  # it was killed in the middle, and never mends that
            for tail in ("", "-journal"):
                with suppress(FileNotFoundError):
                    os.replace(f"{database}{tail}", f"{database}.half{tail}")
        if not database.exists():
            making.touch()
        yield
        making.unlink(missing_ok=True)
        _find_artifacts_beside(database)


def check(uri: str) -> None:
    """Look whether a local database is one that the installed MLflow can work with, and is ours.

    Raises:
        UserError: it is damaged, cannot be written, or is of an older or a newer MLflow.
    """
    database = database_of(uri)
    making = database.with_name(database.name + ".making")
    if making.exists():  # by another process now, or it will be made anew
        return
    folder = next(place for place in database.parents if place.exists())  # the rest is made
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f"MLflow cannot keep its records in {database}: {folder} cannot be written, or is no"
            " folder; have MLFLOW_TRACKING_URI name another database or a server"
        )
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
            version = _schema(connection)
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except sqlite3.Error as error:
        if "locked" in str(error):
            return  # that passes
        raise UserError(
            f"{database} is of no use to MLflow ({error}): make it a database of MLflow's that you"
            " may write, or move it away, with mlruns/, and a new one is made"
        ) from None
    known = schema_versions()
    if version and version not in known:
        raise UserError(
            f"{database} was made by a newer MLflow than the installed one; update this repository"
            " and its environment (`make`), or move it away, with mlruns/, and a new one is made"
        )
    if version and version != known[-1]:
        raise UserError(
            f"{database} was made by an older MLflow: `make upgrade-mlflow` upgrades it, and keeps"
            " it as it was in a copy"
        )


def schema(database: Path) -> str | None:
    """The version of a database's tables; None where it has none.

    Raises:
        sqlite3.Error: it is no database, or not one of MLflow's.
    """
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
        return _schema(connection)


def _schema(connection: sqlite3.Connection) -> str | None:
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return None
    found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return found and str(found[0])


def schema_versions() -> list[str]:
    """The versions that a database of the installed MLflow can have, the newest last.

    Read from the files of its migrations: importing mlflow would take two seconds.
    """
    package = importlib.util.find_spec("mlflow")
    assert package is not None
    assert package.origin is not None
    texts = [
        path.read_text(encoding="utf-8")
        for path in Path(package.origin).parent.glob("store/db_migrations/versions/*.py")
    ]
    versions, before = (
        {found[1] for text in texts if (found := re.search(rf'^{name} = "(\w+)"', text, re.M))}
        for name in ("revision", "down_revision")
    )
    return [*sorted(versions & before), *(versions - before)]


def database_of(uri: str) -> Path:
    """The file of a local database."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]).absolute()


PLACES = (  # where MLflow keeps whole paths of artifacts: table and column
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)


def _find_artifacts_beside(database: Path) -> None:
    """Where a database was copied or moved with its `mlruns/`, lead its paths to the one beside it.

    MLflow writes down whole paths. In a copied repository they lead to the first one, where new
    artifacts would go as well; in a moved one to nothing. So a table of our own in the database
    holds the path of the `mlruns/` that was beside it; whatever is elsewhere stays as it is.
    """
    here = database.parent / "mlruns"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS nanogpt_place (mlruns TEXT NOT NULL)")
        known = connection.execute("SELECT mlruns FROM nanogpt_place").fetchone()
        if known is None:
            known = (_first_place(connection, str(here)),)
            connection.execute("INSERT INTO nanogpt_place VALUES (?)", known)
        if known[0] != str(here):
            for before, now in zip(_forms(Path(known[0])), _forms(here), strict=True):
                for table, column in PLACES:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                        f" WHERE substr({column}, 1, ?) = ?",
                        (now, len(before) + 1, len(before), before),
                    )
            connection.execute("UPDATE nanogpt_place SET mlruns = ?", (str(here),))


def _first_place(connection: sqlite3.Connection, here: str) -> str:
    """The `mlruns/` that was beside a database from before its place was recorded.

    Known by the experiments that this project made, `mlruns/<name>`, and of which `here` has the
    files: what has none here was put elsewhere on purpose. Without one it is `here`.
    """
    found = connection.execute("SELECT artifact_location, name FROM experiments").fetchall()
    places = [
        place.rpartition("/")[0]
        for place, name in found
        if place
        and place.startswith("/")
        and place.endswith(f"/mlruns/{name}")
        and Path(here, name).is_dir()
    ]
    # an experiment that is here shows that the database was not moved; others were put elsewhere
    return here if here in places or not places else places[0]


def _forms(folder: Path) -> tuple[str, str, str]:
    """How the path of anything in a folder may begin in MLflow: as a path or as an address."""
    return f"{folder}/", f"file://{folder}/", f"{folder.as_uri()}/"
