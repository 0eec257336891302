"""A training's run in MLflow; with `registry`, the only importer of mlflow.

    run = start(state, "shakespeare", fingerprint, params, tags, dataset)    # rank 0 alone
    run.sync(step)                       # after each save: the metrics up to it may be told now
    registry.register(run, model, ...)
    run.finish("FINISHED")

Tracking never stops or slows what it tracks. A server that does not answer costs one warning;
metrics wait in the training's journal and go out at a later `sync`.
"""

import json
import logging
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt import journal, lineage, store

if TYPE_CHECKING:
    from mlflow import MlflowClient as MlflowClient
    from mlflow.entities import Run as MlflowRun

log = logging.getLogger(__name__)

BATCH = 1000  # metrics in one request, MLflow's limit
SYSTEM_METRICS_SECONDS = 5
ENVIRONMENT = {  # read when mlflow is imported, so `connect` comes first; the user's own wins
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the next save tries again anyway
}


def start(
    folder: Path,
    recipe: str,
    fingerprint: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    dataset: Mapping[str, Any],
) -> "Run":
    """Start the run of the training whose state is in `folder`, or go on with the one it has.

    Returns at once: all that takes time happens in a thread, which first sends what the training
    before a kill did not. So the journal must have been opened, and with that cut, before.

    Args:
        folder: holds `journal.jsonl`; gets `run.json`.
        recipe: names the experiment.
        fingerprint: of the training; its beginning is in the run's name.
        params: settings, nested as in params.yaml.
        tags: what else is known of the training; may differ when it is resumed.
        dataset: `name`, `digest` and `source`; all other keys go into its profile.
    """
    path = folder / "run.json"
    about = json.loads(path.read_text()) if path.exists() else {"training": uuid.uuid4().hex}
    about |= {
        "recipe": recipe,
        "name": f"{recipe}-{fingerprint[:8]}",
        "params": dict(_flatten(params)),
        "tags": {"fingerprint": fingerprint} | {key: str(value) for key, value in tags.items()},
        "dataset": dict(dataset),
        "ended": None,
    }
    _write(path, about)
    return Run(folder)


class Run:
    """One training in MLflow, made by `start`; everything about it is in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._about: dict[str, Any] = json.loads((folder / "run.json").read_text())
        self._journal = folder / "journal.jsonl"
        self._durable = max((row.step for row in journal.read(self._journal)), default=-1)
        self._sent_rows = 0  # of the journal, as far as this process knows
        self._status: str | None = None
        self._mlflow: MlflowClient | None = None
        self._monitor: Any = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        # daemon: a server that hangs must not keep a finished training from ending
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    @property
    def recipe(self) -> str:
        """Names the experiment and the registered model."""
        return str(self._about["recipe"])

    def sync(self, step: int) -> None:
        """Send, in the background, the journal up to `step`, which a save on disk covers."""
        self._durable = step
        self._wake.set()

    def finish(self, status: str, timeout: float = 60) -> bool:
        """Send the rest and end the run as FINISHED, FAILED or KILLED; waits `timeout` seconds.

        Returns:
            Whether MLflow has everything. If not, keep the folder: nothing else has it.
        """
        self._status = status
        self._wake.set()
        self._thread.join(timeout)
        return bool(self._about["ended"] == status)

    @contextmanager
    def opened(self) -> Iterator[tuple["MlflowClient", str]]:
        """The client and the run's id, with the background thread kept out.

        Raises:
            Exception: MLflow does not answer.
        """
        with self._lock:
            yield self._open(), self._about["run_id"]

    def _work(self) -> None:
        warned = False
        while True:
            last = self._status is not None
            try:
                with self._lock:
                    self._deliver()
                warned = False
            except Exception as error:
                if not warned:
                    log.warning("metrics wait in %s: %s", self._folder, explain(error))
                warned = True
            if last:
                return
            self._wake.wait()
            self._wake.clear()

    def _deliver(self) -> None:
        status, durable = self._status, self._durable
        client = self._open()
        from mlflow.entities import Metric

        run_id = self._about["run_id"]
        rows = journal.read(self._journal, self._sent_rows)
        for batch in _batches(row for row in rows if row.step <= durable):
            metrics = [
                Metric(key, value, row.time, row.step)
                for row in batch
                if row.step > self._about["sent"]
                for key, value in row.metrics.items()
            ]
            client.log_batch(run_id, metrics)
            self._sent_rows += len(batch)
            self._keep(sent=max(self._about["sent"], batch[-1].step))
        if status is not None:
            if self._monitor:
                self._monitor.finish()
            if status == "FINISHED":
                figure = journal.draw(journal.read(self._journal))
                client.log_figure(run_id, figure, "plots/curves.png")
            client.set_terminated(run_id, status)
            self._keep(ended=status)

    def _open(self) -> "MlflowClient":
        """The client, once the run is there: found by its training's tag, or created."""
        if self._mlflow:
            return self._mlflow
        about = self._about
        client = connect()
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        experiment_id = _experiment(client, about["recipe"])
        tags = about["tags"] | lineage.describe() | {"training": about["training"]}
        _end_dead_runs(client, tags)
        found = client.search_runs([experiment_id], f"tags.training = '{about['training']}'")
        run = found[0] if found else client.create_run(experiment_id, None, tags, about["name"])
        run_id = run.info.run_id
        if about.get("run_id") != run_id:
            self._keep(run_id=run_id, sent=-1)
        client.update_run(run_id, "RUNNING")
        _log_facts(client, run, about["params"], tags, about["dataset"])
        self._monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
            run_id, SYSTEM_METRICS_SECONDS, resume_logging=True
        )
        self._monitor.start()
        self._mlflow = client
        return client

    def _keep(self, **values: Any) -> None:
        self._about |= values
        _write(self._folder / "run.json", self._about)


def connect() -> "MlflowClient":
    """A client of the tracking server, or of the database at the root.

    Raises:
        Exception: it does not answer, or not as it should.
    """
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    uri = store.tracking_uri()
    os.environ["MLFLOW_TRACKING_URI"] = uri  # parts of mlflow read it, whatever a client is told
    from mlflow import MlflowClient

    with store.prepared(uri):
        return MlflowClient()


def _experiment(client: "MlflowClient", recipe: str) -> str:
    found = client.get_experiment_by_name(recipe)
    if found is None:
        location = store.artifact_location(store.tracking_uri(), recipe)
        return client.create_experiment(recipe, location)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _end_dead_runs(client: "MlflowClient", ours: Mapping[str, str]) -> None:
    """Trainings of this machine whose process was killed cannot say so themselves."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"attributes.status = 'RUNNING' AND tags.host = '{ours['host']}'"
    for run in client.search_runs(experiments, f"{query} AND tags.training LIKE '%'"):
        tags, run_id = run.data.tags, run.info.run_id
        alive = lineage.is_alive(int(tags["pid"]), float(tags["process_started"]))
        if not alive and tags["training"] != ours["training"]:
            points = client.get_metric_history(run_id, "train_loss")
            end = max((point.timestamp for point in points), default=run.info.start_time)
            client.set_terminated(run_id, "KILLED", end)


def _log_facts(
    client: "MlflowClient",
    run: "MlflowRun",
    params: Mapping[str, str],
    tags: Mapping[str, str],
    dataset: Mapping[str, Any],
) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

    run_id = run.info.run_id
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    # MLflow refuses to change a parameter; a resumed training has the values it was started with
    new = [Param(key, value) for key, value in params.items() if key not in run.data.params]
    for first in range(0, len(new), 100):  # MLflow's limit
        client.log_batch(run_id, params=new[first : first + 100])
    data = dict(dataset)
    entity = Dataset(
        name=data.pop("name"),
        digest=data.pop("digest")[:36],  # MLflow's limit
        source_type="corpus",
        source=json.dumps({"uri": data.pop("source")}),
        profile=json.dumps(data),
    )
    client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])


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


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)


def _write(path: Path, values: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".partial")
    with temporary.open("w") as file:
        json.dump(values, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def explain(error: Exception) -> str:
    """An error in one short line: MLflow's can have a page."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
