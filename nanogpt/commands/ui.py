"""MLflow's own pages of the runs and the registry, on this machine alone.

nanogpt ui                     # until Ctrl-C; `make ui` starts Prefect's pages as well
nanogpt ui --links             # where the pages are, and what each shows
"""

import os
import socket
import sys
from contextlib import closing

from nanogpt.common.errors import UserError
from nanogpt.common.place import root
from nanogpt.tracking import location, pages
from nanogpt.tracking.client import every, usable

HOST = "127.0.0.1"
NEWEST = 5  # recipes that are named; more would fill the screen


def serve(port: int) -> None:
    """Become MLflow's server of the local database; of another server the address is said.

    Raises:
        UserError: the port is taken, or the database is of no use.
    """
    if remote():
        print(f"MLFLOW_TRACKING_URI names a server, whose pages are at {pages.home()}")
        return
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise UserError(f"--port {port} cannot be had ({error}); take another") from None
    usable()  # a moved repository finds its artifacts
    os.chdir(root())
    # five more processes, for jobs that nothing here asks for
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ
    # not as an argument, which every user of the machine can read: it may hold a password
    environment["MLFLOW_BACKEND_STORE_URI"] = location.tracking_uri()
    # of several workers those that start slowly, on a busy machine, are ended again and again
    words = ["-m", "mlflow", "ui", "--host", HOST, "--port", str(port), "--workers", "1"]
    os.execve(sys.executable, [sys.executable, *words], environment)


def addresses(port: int) -> dict[str, str]:
    """Addresses by what they show: all recipes, and the runs of each that has trained of late."""
    server = None if remote() else f"http://{HOST}:{port}"
    found = {"all recipes": pages.home(server)}
    try:
        client = usable()
    except UserError as error:  # its server may be up when somebody looks at the page
        print(error, file=sys.stderr)
        return found
    newest = every(client.search_experiments, order_by=["last_update_time DESC"])
    # of others, on a server that is shared, MLflow would not find the view that the address names
    recipes = [experiment for experiment in newest if pages.VIEW_TAG in experiment.tags]
    for experiment in recipes[:NEWEST]:
        found[f"runs of {experiment.name}"] = pages.runs(experiment.experiment_id, server)
    return found


def remote() -> bool:
    """Whether MLflow's pages are those of a server that somebody else started."""
    return location.tracking_uri().startswith("http")
