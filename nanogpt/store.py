"""Where MLflow keeps its records when nothing else is said: `mlflow.db` and `mlruns/` at the root.

These are MLflow's own defaults, so a bare `mlflow ui` in the root shows everything.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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


def server() -> str | None:
    """The tracking server's address, without anyone's password; None for a database or folder."""
    uri = tracking_uri()
    return re.sub("//[^/@]*@", "//", uri) if uri.startswith("http") else None


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
    """One process at a time: MLflow makes its tables inside, and two at once would break them."""
    if not uri.startswith(SQLITE):
        yield
        return
    database = _database(uri)
    making = database.with_name(database.name + ".making")
    with database.with_name(database.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if making.exists():  # it was killed in the middle, and never mends that
            for tail in ("", "-journal"):
                with suppress(FileNotFoundError):
                    os.replace(f"{database}{tail}", f"{database}.half{tail}")
        if not database.exists():
            making.touch()
        yield
        making.unlink(missing_ok=True)


def _database(uri: str) -> Path:
    return Path(uri.removeprefix(SQLITE)).absolute()
