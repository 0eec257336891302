"""Where MLflow keeps its records when nothing else is said: `mlflow.db` and `mlruns/` at the root.

These are MLflow's own defaults, so a bare `mlflow ui` in the root shows everything.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from nanogpt.common.place import root
from nanogpt.common.secrets import public

SQLITE = "sqlite:///"
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


def server() -> str | None:
    """The tracking server's address, without anyone's password; None for a database or folder."""
    uri = tracking_uri()
    return public(uri) if uri.startswith("http") else None


def outbox() -> Path:
    """Where records wait that MLflow has not taken yet: beside the recipes' artifacts."""
    return root() / "data" / ".outbox"


def artifact_location(uri: str, recipe: str) -> str | None:
    """Where a recipe's artifacts go: beside a local database; a server decides for itself."""
    if not uri.startswith(SQLITE):
        return None
    return (_database(uri).parent / "mlruns" / recipe).as_posix()


@contextmanager
def prepared(uri: str) -> Iterator[None]:
    """One process at a time: MLflow makes its tables inside, and two at once would break them.

    A database that was copied or moved with its repository finds its artifacts there afterwards.
    """
    if not uri.startswith(SQLITE):
        yield
        return
    database = _database(uri)
    making = database.with_name(database.name + ".making")
    with FileLock(f"{database}.lock"):
        if making.exists():  # it was killed in the middle, and never mends that
            for tail in ("", "-journal"):
                with suppress(FileNotFoundError):
                    os.replace(f"{database}{tail}", f"{database}.half{tail}")
        if not database.exists():
            making.touch()
        yield
        making.unlink(missing_ok=True)
        _find_artifacts_beside(database)


def _database(uri: str) -> Path:
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

    Known by the experiments that this project made, `mlruns/<name>`; without one it is `here`.
    """
    found = connection.execute("SELECT artifact_location, name FROM experiments").fetchall()
    places = [
        place.rpartition("/")[0]
        for place, name in found
        if place and place.startswith("/") and place.endswith(f"/mlruns/{name}")
    ]
    # an experiment that is here shows that the database was not moved; others were put elsewhere
    return here if here in places or not places else places[0]


def _forms(folder: Path) -> tuple[str, str, str]:
    """How the path of anything in a folder may begin in MLflow: as a path or as an address."""
    return f"{folder}/", f"file://{folder}/", f"{folder.as_uri()}/"
