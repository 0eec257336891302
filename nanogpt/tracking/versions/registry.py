"""Models in MLflow's registry, known by their recipe and training: candidate, champion, why.

    register(client, run_id, recipe, model, weights_sha256=..., ...)    # train
    run = run_of(client, identity)
    record_evaluation(client, run, identity, metrics, dataset, trial)   # eval
    record_samples(client, run, name, text, table)                      # sample
    summary(identity)

All but the last are called by `sending`; `outbox` keeps what MLflow does not take. Each may be
called again with the same values, after a kill in its middle or at its end, and changes nothing
more.
"""

import json
import logging
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt.tracking import datasets, describe
from nanogpt.tracking.client import connect, every
from nanogpt.tracking.run import FINGERPRINT, TRAINING, experiment, rounded
from nanogpt.tracking.trouble import explain
from nanogpt.tracking.versions import history
from nanogpt.tracking.versions.advantage import TEXT
from nanogpt.tracking.versions.gate import Outcome, challenge
from nanogpt.tracking.versions.names import PREFIX
from nanogpt.tracking.versions.trial import CONTEXT, Trial
from nanogpt.tracking.versions.upload import upload

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

SCORE = "eval_bits_per_byte"  # does not depend on the tokenizer; lower is better
TABLE = "samples.json"  # what MLflow shows as a table, and compares between runs
TABLES = "mlflow.loggedArtifacts"  # the tag that says so


@dataclass(frozen=True)
class Identity:
    """Which model results belong to: other recipes, and other lineages, may have its weights too.

    Attributes:
        recipe: whose experiment and registered model they are.
        lineage: tags of the run that made it, such as FINGERPRINT and `tokens_sha256`: they decide
            between several.
    """

    recipe: str
    weights_sha256: str
    lineage: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its recipe and weights in one word."""
        return f"{self.recipe}-{self.weights_sha256}"

    @property
    def fingerprint(self) -> str | None:
        """Of its training, where that is known."""
        return self.lineage.get(FINGERPRINT)

    def fits(self, tags: Mapping[str, str]) -> int:
        """How much of its lineage these tags of a run or a version have."""
        return sum(tags.get(key) == value for key, value in self.lineage.items())

    def is_of(self, tags: Mapping[str, str]) -> bool:
        """Whether these are tags of the very training that made it."""
        return self.fingerprint is not None and tags.get(FINGERPRINT) == self.fingerprint


def register(
    client: "MlflowClient",
    run_id: str,
    recipe: str,
    model: Path,
    *,
    weights_sha256: str,
    step: int,
    metrics: Mapping[str, float],
    tags: Mapping[str, Any],
    sampling: Mapping[str, Any],
    dataset: Mapping[str, Any],
    made_of: Mapping[str, str] | None = None,
) -> str:
    """Register a model directory as the `candidate` of `nanogpt-<recipe>`.

    Registering the same weights of the same run again gives the version that is there.

    Args:
        step: of the training, that the weights are of.
        metrics: such as the validation loss; tags of the version, with four digits.
        tags: what the model is made of; those of the uploaded model; `base` and `context`
            of the version too.
        sampling: what `predict` does when it is not told; section `sample` of the settings.
        dataset: that was validated on, as `run.start` takes it.
        made_of: tags of the version by which it is searched for; what waits from before has none.

    Returns:
        The version.

    Raises:
        Exception: MLflow does not answer.
    """
    name = f"{PREFIX}{recipe}"
    card = (describe.card(model) + describe.code(made_of or {})).strip()
    short = {key: f"{value:.4f}" for key, value in metrics.items()}
    short |= {key: str(tags[key]) for key in ("base", CONTEXT) if tags.get(key)}
    short |= {**(made_of or {}), "weights_sha256": weights_sha256}
    if training := client.get_run(run_id).data.tags.get(FINGERPRINT):
        short[FINGERPRINT] = training
    client.set_tag(run_id, "weights_sha256", weights_sha256)
    if card:
        client.set_tag(run_id, describe.NOTE, card)
    version = _newest(_versions(client, f"run_id = '{run_id}'", weights_sha256))
    if version is None:
        facts = short | {key: str(value) for key, value in tags.items()} | {describe.NOTE: card}
        model_id = upload(client, run_id, name, model, step, facts, sampling, dataset)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=describe.registered(recipe))
        version = client.create_model_version(
            name, f"models:/{model_id}", run_id, short, description=card, model_id=model_id
        )
    number = str(version.version)
    # as MLflow's own `register_model` does: else the model's page says that it is not registered
    listed = json.dumps([{"name": name, "version": number}])
    client.set_logged_model_tags(_model_id(version), {"mlflow.modelVersions": listed})
    history.move(client, name, "candidate", number, "the newest training", by="training")
    return number


def run_of(client: "MlflowClient", identity: Identity, make: bool = True) -> Any:
    """The run that made these weights: of those of its recipe the one that has most of its lineage.

    Where there is none, because it was deleted, or the model was trained elsewhere, a run of their
    own is made for what is to be recorded; with `make` off the answer is None.
    """
    found = client.get_experiment_by_name(identity.recipe)
    if found and found.lifecycle_stage == "deleted" and make:
        experiment(client, identity.recipe)  # with all its runs
    weights = f"tags.weights_sha256 = '{identity.weights_sha256}'"
    runs = []
    if found:
        order = ["start_time DESC"]
        runs = [*every(client.search_runs, [found.experiment_id], weights, order_by=order)]
    # of equals the first, which is the newest
    run = max(runs, key=lambda run: identity.fits(run.data.tags), default=None)
    if run and not identity.is_of(run.data.tags):
        versions = _of_recipe(client, identity)
        if any(identity.is_of(version.tags) for version in versions):
            run = None  # of another training; its own was deleted
    if run is None and make:
        tags = {key: value for key, value in identity.lineage.items() if value}
        tags |= {"weights_sha256": identity.weights_sha256, "mlflow.source.name": "nanogpt"}
        tags[describe.NOTE] = "Results of a model whose training has no run here."
        place = experiment(client, identity.recipe)
        name = f"results of {identity.weights_sha256[:8]}"
        run = client.create_run(place, tags=tags, run_name=name)
    if run and run.info.status == "RUNNING" and TRAINING not in run.data.tags:
        client.set_terminated(run.info.run_id)  # one of their own; also after a kill right here
    return run


def record_evaluation(
    client: "MlflowClient",
    run: Any,
    identity: Identity,
    metrics: Mapping[str, float],
    dataset: Mapping[str, Any],
    trial: Trial,
) -> Outcome:
    """Record the scores of these weights, and have them challenge the champion.

    Args:
        run: as `run_of` found it.
        metrics: with `eval_bits_per_byte`.
        dataset: that was scored, as `run.start` takes it; its digest is that of the text.
        trial: what the decision is made by.

    Raises:
        Exception: MLflow does not answer, or refuses.
    """
    from mlflow.entities import Metric

    run_id = run.info.run_id
    version = _version(client, run_id, identity)
    client.log_inputs(run_id, [datasets.as_input(dataset, "evaluation")])
    data = datasets.reference(dataset)
    now, model_id = time.time_ns() // 1_000_000, version and _model_id(version)
    found = {key: rounded(value) for key, value in metrics.items()}
    new = {key: value for key, value in found.items() if run.data.metrics.get(key) != value}
    client.log_batch(
        run_id, [Metric(key, value, now, 0, model_id, **data) for key, value in new.items()]
    )
    if version is None:
        return Outcome("the weights are not registered, so there is nothing to promote")
    score, text_sha256 = round(metrics[SCORE], 6), dataset["digest"]
    for key, tag in {SCORE: str(score), TEXT: text_sha256}.items():
        client.set_model_version_tag(version.name, version.version, key, tag)
    outcome = challenge(client, version, trial)
    client.set_tag(run_id, "decision", outcome.reason)
    about = describe.decided(version.description, outcome.reason)
    client.update_model_version(version.name, version.version, about)
    if outcome.difference:
        gains = {f"gate_{key}": getattr(outcome.difference, key) for key in ("gain", "low", "high")}
        known = {key: rounded(value) for key, value in gains.items() if math.isfinite(value)}
        points = [Metric(key, value, now, 0, **data) for key, value in known.items()]
        client.log_batch(run_id, points)
    return outcome


def record_samples(
    client: "MlflowClient", run: Any, name: str, text: str, table: Mapping[str, Sequence[str]]
) -> None:
    """Keep samples with a run: as the artifact `name`, and as a table that MLflow compares.

    Args:
        table: columns by name, all of one length.
    """
    run_id = run.info.run_id
    client.log_text(run_id, text, name)
    # not by `log_table`, which adds to the table that is there: this may be sent twice
    columns = {"columns": list(table), "data": [*map(list, zip(*table.values(), strict=True))]}
    client.log_text(run_id, json.dumps(columns), TABLE)
    client.set_tag(run_id, TABLES, json.dumps([{"path": TABLE, "type": "table"}]))


def summary(identity: Identity) -> dict[str, Any]:
    """What MLflow knows of a model; empty if it knows nothing, or does not answer.

    Keys: `experiment_id`, `run_id`, `run` (its name), `tokens_per_second` (median), and for a
    registered model `name`, `version` and `aliases`; `pages` makes addresses of them.
    """
    try:
        client = connect()
        if (run := run_of(client, identity, make=False)) is None:
            return {}
        known: dict[str, Any] = {"run_id": run.info.run_id, "run": run.info.run_name}
        known["experiment_id"] = experiment(client, identity.recipe)  # has its view from now on
        if speeds := client.get_metric_history(run.info.run_id, "tokens_per_second"):
            known["tokens_per_second"] = statistics.median(point.value for point in speeds)
        if found := _version(client, run.info.run_id, identity):
            version = client.get_model_version(found.name, found.version)  # a search has no aliases
            known |= {"name": found.name, "version": str(found.version)}
            known["aliases"] = [*version.aliases]  # of a server they are no list
        return known
    except Exception as error:
        log.warning("MLflow does not say what it knows: %s", explain(error))
        return {}


def _version(client: "MlflowClient", run_id: str, identity: Identity) -> Any:
    """The newest version that a run registered of these weights, or that its recipe did, or None.

    A version outlives its run, which somebody may have deleted. One that is known to be of another
    training, with the same weights, is not taken.
    """
    if found := _newest(_versions(client, f"run_id = '{run_id}'", identity.weights_sha256)):
        return found
    ours = [
        version
        for version in _of_recipe(client, identity)
        if not identity.fingerprint
        or version.tags.get(FINGERPRINT, identity.fingerprint) == identity.fingerprint
    ]
    return _newest([version for version in ours if identity.is_of(version.tags)] or ours)


def _model_id(version: Any) -> str:
    """Of the uploaded model that a version is, as `register` made it."""
    return str(version.source.removeprefix("models:/"))


def _of_recipe(client: "MlflowClient", identity: Identity) -> list[Any]:
    """The versions of these weights that the recipe registered."""
    query = f"name = '{PREFIX}{identity.recipe}'"
    return _versions(client, query, identity.weights_sha256)


def _versions(client: "MlflowClient", query: str, weights_sha256: str) -> list[Any]:
    """The versions of these weights among those of a query."""
    query += f" AND tags.weights_sha256 = '{weights_sha256}'"
    return [*every(client.search_model_versions, query)]


def _newest(versions: Iterable[Any]) -> Any:
    """The newest of some versions, or None."""
    return max(versions, key=lambda version: int(version.version), default=None)
