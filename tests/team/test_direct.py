"""Artifacts that members put into S3 themselves, and PostgreSQL's own limits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanogpt.tracking import outbox
from nanogpt.tracking.run import start
from nanogpt.tracking.versions.fetch import download_registered
from nanogpt.training.journal import Journal
from tests.kit import team
from tests.kit.recipes import ROOT, contents
from tests.kit.trainings import DATASETS, check_everything, everything, make_model, runs, waiting

pytestmark = pytest.mark.slow
SERVED = "--artifacts-destination s3://team/mlflow"
DIRECT = "--no-serve-artifacts --default-artifact-root s3://team/mlflow"


@pytest.fixture(scope="module")
def direct(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """As docs/team.md has it for large models, with a database of its own."""
    if not team.INITDB:
        pytest.skip(team.NO_POSTGRES)
    page = (ROOT / "docs/team.md").read_text("utf-8")
    assert f"`{DIRECT}`" in page
    start = team.blocks("docs/team.md")[0].replace(SERVED, DIRECT)
    folder = tmp_path_factory.mktemp("direct")
    with (
        team.postgres() as database,
        team.mlflow_server(folder, start, database, store) as address,
    ):
        yield address


@pytest.fixture
def member(direct: str, store: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    values = team.KEYS | team.REGION
    values |= {"MLFLOW_TRACKING_URI": direct, "MLFLOW_S3_ENDPOINT_URL": store}
    for key, value in values.items():
        monkeypatch.setenv(key, value)
    return root


def test_members_write_and_read_the_store_themselves(member: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    assert everything(member, model) == "the first champion: 2.0000 bits per byte"
    assert waiting() == []
    check_everything(model)
    (run,) = runs()
    assert run.info.artifact_uri.startswith("s3://team/mlflow/")
    (tmp_path / "fetched").mkdir()
    found = download_registered("models:/nanogpt-plays@champion", tmp_path / "fetched")
    assert contents(found) == contents(model)


def test_what_postgresql_has_no_room_for_is_made_to_fit(member: Path) -> None:
    (member / "state").mkdir()
    journal = Journal(member / "state" / "journal.jsonl", None)
    journal.record(1, {"train_loss": 4.0})
    journal.save()
    settings = {"sample": {"prompt": "a\0b"}}
    run = start(member / "state", "nulls", "x" * 300, "0" * 16, settings, {}, "small", DATASETS)
    outbox.end(run, "FINISHED")
    assert waiting() == []
    (stored,) = (run for run in runs() if "sample.prompt" in run.data.params)
    assert stored.data.params["sample.prompt"] == "a\\0b"
    assert stored.data.metrics["train_loss"] == 4.0
