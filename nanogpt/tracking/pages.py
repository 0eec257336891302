"""Addresses of MLflow's pages, in the form that suits trainings.

    known = registry.summary(identity)
    pages.runs(known["experiment_id"])          # a recipe's runs, with the columns that matter
    pages.version(known["name"], known["version"])

Without `workflowType` MLflow opens an experiment as one of agents and their traces, whatever tags
it has.
"""

import json
from typing import Any

from nanogpt.tracking import location

LOCAL = "http://127.0.0.1:5000"  # of `nanogpt ui` without --port
WORKFLOW = "workflowType=machine_learning"
VIEW = "nanogpt"  # name of the view of runs that an experiment carries
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"  # where MLflow keeps what its button Share makes
COLUMNS = (
    "metrics.`eval_bits_per_byte`",
    "metrics.`val_bits_per_byte`",
    "metrics.`val_loss`",
    "metrics.`tokens_per_second`",
)


def runs(experiment_id: str, server: str | None = None) -> str:
    """The runs of a recipe in a table.

    Args:
        server: such as http://127.0.0.1:5001; else MLFLOW_TRACKING_URI's, or LOCAL.
    """
    return (
        f"{_server(server)}/#/experiments/{experiment_id}/runs?{WORKFLOW}&viewStateShareKey={VIEW}"
    )


def run(experiment_id: str, run_id: str, server: str | None = None) -> str:
    """One run."""
    return f"{_server(server)}/#/experiments/{experiment_id}/runs/{run_id}?{WORKFLOW}"


def version(name: str, number: str, server: str | None = None) -> str:
    """One version of a registered model."""
    return f"{_server(server)}/#/models/{name}/versions/{number}?{WORKFLOW}"


def home(server: str | None = None) -> str:
    """All recipes that have been trained."""
    return f"{_server(server)}/#/experiments?{WORKFLOW}"


def view() -> str:
    """What the view of runs shows, in the form in which MLflow keeps it."""
    state: dict[str, Any] = {
        "selectedColumns": COLUMNS,
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
        "searchFilter": "",
        "orderByKey": COLUMNS[0],  # the best first, whatever its tokenizer
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }
    return json.dumps(state)


def _server(named: str | None) -> str:
    if named:
        return named
    address = location.address()
    return address.rstrip("/") if address.startswith("http") else LOCAL
