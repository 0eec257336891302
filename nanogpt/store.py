"""Where MLflow keeps its records when nothing else is said: `mlflow.db` and `mlruns/` at the root.

These are MLflow's own defaults, so a bare `mlflow ui` in the root shows everything.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

SQLITE = "sqlite:///"
# where MLflow 3.17 writes absolute paths of artifacts
PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def root() -> Path:
    """The repository: the first folder upwards that DVC was initialised in, or the current one.

    An experiment that DVC runs in a copy under `.dvc/tmp/exps` belongs to the repository itself.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".dvc").is_dir():
            return Path(folder.as_posix().partition("/.dvc/tmp/exps/")[0])
    return here


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the database at the root of the repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{(root() / 'mlflow.db').as_posix()}"


def artifact_location(uri: str, recipe: str) -> str | None:
    """Where a recipe's artifacts go: beside a local database; a server decides for itself."""
    if not uri.startswith(SQLITE):
        return None
    return (_database(uri).parent / "mlruns" / recipe).as_posix()


def follow_move(uri: str) -> None:
    """Correct the paths in a local database whose folder was moved or copied.

    MLflow writes every artifact's absolute path into it, and has no way to change one.
    """
    if not uri.startswith(SQLITE) or not _database(uri).exists():
        return
    database = _database(uri)
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'experiments'")
        if not tables.fetchone():
            return
        rows = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
        new = f"{database.parent.as_posix()}/mlruns/"
        ours = {path.removesuffix(name) for name, path in rows if path.endswith(f"/mlruns/{name}")}
        for old in ours - {new}:
            for table, column in PATHS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                    f" WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old), old),
                )


def _database(uri: str) -> Path:
    return Path(uri.removeprefix(SQLITE)).absolute()
