"""A training's run in MLflow.

    run = start(folder, "shakespeare", name, fingerprint, params, tags, about, datasets)  # rank 0
    outbox.end(run, "FINISHED", ...)     # the rest, the status, the model

In between it follows the training by itself: MLflow is sent those rows of the journal that the
newest save covers, for it cannot take a metric back that a resumed training would not repeat.

Tracking never stops or slows what it tracks. A server that does not answer costs one warning;
metrics wait in the training's journal and go out with a later save, or from the outbox.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt.common.errors import UserError
from nanogpt.common.files import write_text
from nanogpt.common.secrets import public
from nanogpt.tracking import datasets as data_sets
from nanogpt.tracking import describe, entries, location, pages, process
from nanogpt.tracking.client import connect, every
from nanogpt.tracking.naming import flatten
from nanogpt.tracking.trouble import Trouble, explain
from nanogpt.training import checkpoint, journal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

log = logging.getLogger(__name__)

BATCH = 1000  # metrics in one request, MLflow's limit
NAME = 250  # characters that a run's name may have in PostgreSQL
SYSTEM_METRICS_SECONDS = 5
LOOK_SECONDS = 0.2  # between two looks for a new save
BEGIN_SECONDS = 20  # after which a run is opened though no save has metrics yet
TRAINING = "nanogpt.training"  # tag: a training's id
FINGERPRINT = "nanogpt.fingerprint"  # tag: of what it was told to do, and on what
RECORDS = "lineage"  # folder in a training's state, and of its run: `versions/record.py`


def start(
    folder: Path,
    recipe: str,
    name: str,
    fingerprint: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    description: str,
    datasets: Mapping[str, Mapping[str, Any]],
) -> "Run":
    """Start the run of the training whose state is in `folder`, or go on with the one it has.

    Returns at once: all that takes time happens in a thread, from the first save with metrics on,
    or after BEGIN_SECONDS; it sends what the training before a kill did not, too. The journal must
    have been opened, and with that cut, before.

    Args:
        folder: holds `journal.jsonl`, and RECORDS; gets `run.json`.
        recipe: names the experiment.
        name: of the run, and of what waits of it.
        fingerprint: of the training.
        params: settings, nested as in params.yaml.
        tags: what else is known of the training; may differ when it is resumed.
        description: in Markdown, until the model's card takes its place.
        datasets: by what they are for (`training`, `validation`) `name`, `digest` and `source`;
            all other keys go into the profile.
    """
    path = folder / "run.json"
    known = (
        json.loads(path.read_text(encoding="utf-8"))
        if path.exists()
        else {"training": uuid.uuid4().hex}
    )
    own = {FINGERPRINT: fingerprint, TRAINING: known["training"]} | process.describe()
    own |= {describe.NOTE: public(description)}
    about = {"started": time.time_ns() // 1_000_000} | known
    about |= {
        "recipe": recipe,
        "name": public(name)[:NAME],
        "params": dict(flatten(params)),
        "tags": {key: str(value) for key, value in tags.items()} | own,
        "datasets": {use: dict(data) for use, data in datasets.items()},
    }
    write_text(path, json.dumps(about, indent=1))
    return Run(folder)


class Training:
    """One training as MLflow knows it; all about it is in `run.json` and `journal.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))

    def open(self, client: "MlflowClient") -> str:
        """The run's id: it is found by its training's tag, or created."""
        about = self.about
        experiment_id = experiment(client, about["recipe"])
        found = client.search_runs([experiment_id], f"tags.`{TRAINING}` = '{about['training']}'")
        new = experiment_id, about["started"], about["tags"], about["name"]
        run = found[0] if found else client.create_run(*new)
        run_id = str(run.info.run_id)
        if about.get("run_id") != run_id:
            self.keep(run_id=run_id, sent_rows=0)
        _log_facts(client, run, about["params"], about["tags"], about["datasets"])
        self.log_record(client, run_id)
        return run_id

    def log_record(self, client: "MlflowClient", run_id: str) -> None:
        """Send the record of what the training comes from, as it is now."""
        if (record := self.folder / RECORDS).exists():
            client.log_artifacts(run_id, str(record), RECORDS)

    def send(self, client: "MlflowClient", run_id: str, rows: int) -> None:
        """Send those of the journal's first `rows` rows that have not been sent."""
        from mlflow.entities import Metric

        sent = self.about["sent_rows"]
        for batch in _batches(
            journal.read(self.folder / "journal.jsonl", sent)[: max(0, rows - sent)]
        ):
            metrics = [
                Metric(key, rounded(value), row.time, row.step)
                for row in batch
                for key, value in row.metrics.items()
            ]
            client.log_batch(run_id, metrics)
            self.keep(sent_rows=self.about["sent_rows"] + len(batch))

    def end(self, client: "MlflowClient", run_id: str) -> None:
        """Send what `about` says of its end."""
        self.send(client, run_id, self.about["durable"])
        client.set_terminated(run_id, self.about["status"], self.about["ended"])

    def keep(self, **values: Any) -> None:
        """Add to `about`, on disk as well."""
        self.about |= values
        write_text(self.folder / "run.json", json.dumps(self.about, indent=1))


class Run:
    """The run of a training that is under way, made by `start`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._training = Training(folder)
        self.name = str(self._training.about["name"])
        self.training = str(self._training.about["training"])  # its id
        self.seen = checkpoint.latest(folder)  # the step of the newest save that it has looked at
        # what waits there of this training is in its journal too, and goes out from here
        for entry in location.outbox().glob(f"training-{self.training}.*"):
            entries.remove(entry)
        self.trouble: Trouble | None = None  # what MLflow answered when last asked
        self._stopping = threading.Event()
        # daemon: a server that hangs must not keep a finished training from ending
        self._thread = threading.Thread(target=self._follow, name="tracking", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Send no more, and wait for what is being sent: `timeout` seconds, or 2 if MLflow is down.

        Returns:
            Whether MLflow answers, as far as is known; if not, `trouble` may say why.
        """
        self._stopping.set()
        self._thread.join(2 if self.trouble else timeout)
        return not self.trouble and not self._thread.is_alive()

    def _follow(self) -> None:
        """Send what each save covers, from the first with metrics on.

        Not before: importing mlflow takes the training's own interpreter for seconds.
        """
        connection: _Connection | None = None
        begin, tried = time.monotonic() + BEGIN_SECONDS, False
        while not self._stopping.wait(LOOK_SECONDS):
            newest, early = checkpoint.latest(self.folder), time.monotonic() < begin
            if newest == self.seen and (early or tried):
                continue
            try:
                rows = checkpoint.covered(self.folder)
            except UserError:
                continue  # it was replaced while it was read: the next one covers more
            if early and not rows:
                continue
            self.seen, tried = newest, True
            try:
                connection = connection or _Connection(self._training)
                self._training.send(connection.client, connection.run_id, rows)
                self.trouble = None
            except Exception as error:
                trouble = explain(error)
                if not self.trouble:
                    log.warning("metrics wait in %s: %s", self.folder, trouble)
                self.trouble = trouble
                if connection:  # its system metrics end with the first request that fails
                    connection.close()
                    connection = None
        if connection:
            connection.close()


class _Connection:
    """A client, the run that it writes to, and the machine's load on the way there."""

    def __init__(self, training: Training) -> None:
        self.client = connect()
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        # what it has to say is in our own warning
        logging.getLogger(SystemMetricsMonitor.__module__).setLevel(logging.CRITICAL)
        _end_dead_runs(self.client, training.about["tags"])
        self.run_id = training.open(self.client)
        self.client.update_run(self.run_id, "RUNNING")
        monitor: Any = SystemMetricsMonitor
        self._monitor = monitor(self.run_id, SYSTEM_METRICS_SECONDS, resume_logging=True)
        self._monitor.start()

    def close(self) -> None:
        self._monitor.finish()


def experiment(client: "MlflowClient", recipe: str) -> str:
    """The id of a recipe's experiment, which is made if it is not there."""
    found = client.get_experiment_by_name(recipe)
    known = found.tags if found else {}
    tags = {describe.NOTE: describe.experiment(recipe)} | known | {pages.VIEW_TAG: pages.view()}
    if found is None:
        place = location.artifact_location(location.tracking_uri(), recipe)
        return client.create_experiment(recipe, place, tags)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    for key, value in tags.items() - known.items():
        client.set_experiment_tag(found.experiment_id, key, value)
    return found.experiment_id


def rounded(value: float) -> float:
    """A figure with as many digits as a person compares."""
    return float(f"{value:.7g}")


def _end_dead_runs(client: "MlflowClient", ours: Mapping[str, str]) -> None:
    """Trainings of this machine whose process was killed cannot say so themselves."""
    experiments = [found.experiment_id for found in every(client.search_experiments)]
    query = f"attributes.status = 'RUNNING' AND tags.host = '{ours['host']}'"
    query += f" AND tags.`{TRAINING}` LIKE '%'"
    for run in [*every(client.search_runs, experiments, query)]:  # all before one of them changes
        tags, run_id = run.data.tags, run.info.run_id
        if tags[TRAINING] != ours[TRAINING] and process.is_dead(tags):
            points = client.get_metric_history(run_id, "train_loss")
            end = max((point.timestamp for point in points), default=run.info.start_time)
            client.set_terminated(run_id, "KILLED", end)


def _log_facts(
    client: "MlflowClient",
    run: "MlflowRun",
    params: Mapping[str, str],
    tags: Mapping[str, str],
    datasets: Mapping[str, Mapping[str, Any]],
) -> None:
    from mlflow.entities import Param, RunTag

    run_id = run.info.run_id
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    # MLflow refuses to change a parameter; a resumed training has the values it was started with
    new = [Param(key, value) for key, value in params.items() if key not in run.data.params]
    for first in range(0, len(new), 100):  # MLflow's limit
        client.log_batch(run_id, params=new[first : first + 100])
    client.log_inputs(run_id, [data_sets.as_input(data, use) for use, data in datasets.items()])


def _batches(rows: Iterable[journal.Row]) -> Iterator[list[journal.Row]]:
    batch: list[journal.Row] = []
    size = 0
    for row in rows:
        if size + len(row.metrics) > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row.metrics)
    if batch:
        yield batch
