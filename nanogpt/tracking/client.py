"""A client of MLflow, asked before the work whether it is of use, and for all pages of a list."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nanogpt.common.errors import NotNow, UserError
from nanogpt.tracking import location
from nanogpt.tracking.trouble import explain

if TYPE_CHECKING:
    from mlflow import MlflowClient as MlflowClient

PASSED_ON = 2 << 20  # bytes a second, at least, that a server passes on to where artifacts lie
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
CHECK_SECONDS = 5  # for a server's answer, before a training; one that is slow is asked later


def connect() -> "MlflowClient":
    """A client of the tracking server, or of the database at the root.

    Raises:
        Exception: it does not answer, or not as it should; `trouble.explain` says which.
    """
    uri = _prepare()
    from mlflow import MlflowClient

    # what it raises is told in a line; it would write the whole traceback before
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with location.prepared(uri):
        client = MlflowClient()
    client.search_experiments(max_results=1)  # a client alone asks nothing
    return client


def _prepare() -> str:
    """Set what MLflow reads when it is imported; returns its address."""
    for key, value in location.ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    os.environ |= location.direct()
    uri = location.tracking_uri()
    os.environ["MLFLOW_TRACKING_URI"] = uri  # parts of mlflow read it, whatever a client is told
    return uri


def usable() -> "MlflowClient":
    """A client for a command that is of no use without one.

    Raises:
        UserError: why there is none; NotNow if that passes.
    """
    with asking():
        return connect()


@contextmanager
def asking(what: str | None = None) -> Iterator[None]:
    """Tell in a line why MLflow does not answer a command, or refuses.

    Args:
        what: cannot be done then; None: nothing can, with the MLflow that is named.

    Raises:
        UserError: why; NotNow if that passes.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # libraries below MLflow have errors of their own, such as SQLAlchemy and botocore; one of
        # Python's, but for a disk, a network or a library that is missing, is a fault of this code
        own = type(error).__module__ == "builtins"
        if own and not isinstance(error, OSError | ImportError):
            raise
        trouble = explain(error)
        said = f"{what or f'MLflow at {location.address()}'}: {trouble}"
        if trouble.passing:
            raise NotNow(f"{said}; run the same command later") from None
        raise UserError(said) from None


def check() -> None:
    """Find out before the work what MLflow would refuse after it.

    A local database costs nothing to look at. A server is asked, for as long as its answer takes,
    but no more than CHECK_SECONDS; one that is down or slow is no reason not to begin.

    Raises:
        UserError: what no waiting helps: a wrong password, a database of another version.
    """
    uri = location.tracking_uri()
    if uri.startswith(location.SQLITE):
        location.check(uri)
        return
    _prepare()
    import mlflow  # noqa: F401  its seconds are not the server's

    found: list[Exception] = []

    def ask() -> None:
        try:
            connect()
        except Exception as error:
            found.append(error)

    asking = threading.Thread(target=ask, name="check", daemon=True)
    asking.start()
    asking.join(CHECK_SECONDS)
    for error in found:
        if not (trouble := explain(error)).passing:
            raise UserError(f"MLflow at {location.address()} would refuse this: {trouble}")


@contextmanager
def patient(size: int) -> Iterator[None]:
    """Wait longer for an answer, as a server passes a file of `size` bytes on and says nothing."""
    known = os.environ.setdefault(TIMEOUT, location.ENVIRONMENT[TIMEOUT])
    os.environ[TIMEOUT] = str(int(known) + size // PASSED_ON)
    try:
        yield
    finally:
        os.environ[TIMEOUT] = known


def every(search: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:
    """All results of a search of MLflow's, page after page."""
    token = None
    while True:
        page = search(*arguments, **options, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
