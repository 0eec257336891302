"""Addresses of MLflow's pages, and what an experiment brings with it so that they show it."""

import json
from pathlib import Path

import pytest

from nanogpt.tracking import describe, pages
from nanogpt.tracking.client import connect
from nanogpt.tracking.run import experiment

RUNS = "/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=nanogpt"


def test_addresses_are_of_the_server_or_of_the_page_on_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert pages.runs("7") == f"http://127.0.0.1:5000{RUNS}"
    assert pages.runs("7", "http://127.0.0.1:5001") == f"http://127.0.0.1:5001{RUNS}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@mlflow.example.org/")
    assert pages.runs("7") == f"https://mlflow.example.org{RUNS}"
    for page in (pages.run("7", "a" * 32), pages.version("nanogpt-plays", "1"), pages.home()):
        assert page.startswith("https://mlflow.example.org/#/")
        assert page.endswith("?workflowType=machine_learning")


def test_an_experiment_has_a_description_and_a_view_also_one_of_before(root: Path) -> None:
    client = connect()
    old = client.create_experiment("poems", tags={describe.NOTE: "A person's own."})
    for recipe in ("plays", "poems"):
        tags = client.get_experiment(experiment(client, recipe)).tags
        assert json.loads(tags[pages.VIEW_TAG])["selectedColumns"] == [*pages.COLUMNS]
    assert client.get_experiment(old).tags[describe.NOTE] == "A person's own."
    made = client.get_experiment_by_name("plays")
    assert made is not None
    assert "the recipe `plays`" in made.tags[describe.NOTE]
