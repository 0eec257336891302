"""Where MLflow keeps its records, wherever a command runs and wherever a repository goes."""

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from nanogpt.common.place import root as repository
from nanogpt.tracking import location, outbox
from nanogpt.tracking.client import connect
from nanogpt.tracking.trouble import explain
from nanogpt.tracking.versions import registry
from nanogpt.tracking.versions.fetch import download_registered
from tests.kit.recipes import contents
from tests.kit.trainings import SAMPLES, begin, client, identity, make_model, registration

BELOW = ("pipelines/plays", ".dvc/tmp/exps/tmpx1/.dvc", ".dvc/tmp/exps/standalone/tmpx2")


@pytest.mark.parametrize("below", BELOW)
def test_the_root_is_where_dvc_is(below: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / below).mkdir(parents=True)
    monkeypatch.chdir(root / below.removesuffix("/.dvc"))
    assert repository() == root
    assert location.tracking_uri() == f"sqlite:///{root}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert location.tracking_uri() == "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{root}/mlflow.db"),
        ("sqlite:///of us/all.db?timeout=9", "sqlite:///{root}/of us/all.db?timeout=9"),
        ("sqlite:////elsewhere/mlflow.db", "sqlite:////elsewhere/mlflow.db"),
    ],
)
def test_a_relative_database_is_seen_from_the_root(
    given: str, meant: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    for below in (".", *BELOW):
        (root / below).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(root / below.removesuffix("/.dvc"))
        assert location.tracking_uri() == meant.format(root=root)


def test_a_relative_database_is_one_from_any_folder(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "pipelines" / "plays").mkdir(parents=True)
    for below in (".", "pipelines/plays"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
        monkeypatch.chdir(root / below)
        outbox.end(begin(root / "state" / below.replace("/", "-"), 4), "FINISHED")
    assert len(client().search_runs([client().get_experiment_by_name("plays").experiment_id])) == 2
    assert list(root.rglob("*.db")) == [root / "mlflow.db"]


def publish(folder: Path, model: Path) -> None:
    outbox.end(begin(folder, 8), "FINISHED", model, registration(model, 2.0))


def holders(database: Path, text: str) -> list[str]:
    """The columns of a database in which this text stands."""
    with sqlite3.connect(database) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM pragma_table_list")]
        return [
            f"{table}.{column}"
            for table in tables
            for (column,) in connection.execute(f"SELECT name FROM pragma_table_info('{table}')")
            if connection.execute(
                f"SELECT count(*) FROM '{table}' WHERE instr(\"{column}\", ?)", (text,)
            ).fetchone()[0]
        ]


def artifact_of(run_id: str) -> str:
    """A run's one artifact, which is a text."""
    return Path(client().download_artifacts(run_id, "a.txt")).read_text()


def check_version(place: Path, model: Path, number: str, folder: Path) -> None:
    """The files of a version are found, and are those below `place`."""
    where = client().get_model_version_download_uri("nanogpt-plays", number)
    assert where.startswith(f"{place}/mlruns/plays/models/")
    folder.mkdir()
    found = download_registered(f"models:/nanogpt-plays/{number}", folder)
    assert contents(found) == contents(model)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_copied_repository_keeps_to_its_own_artifacts(
    root: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    publish(root / "state", model)
    if not recorded:  # as in a database from before places were recorded
        with closing(sqlite3.connect(root / "mlflow.db")) as connection, connection:
            connection.execute("DROP TABLE nanogpt_place")
    before = contents(root)
    copy = tmp_path / "a copy"
    subprocess.run(["cp", "-a", root, copy], check=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.chdir(copy)
    connect()
    check_version(copy, model, "1", tmp_path / "first")
    assert holders(copy / "mlflow.db", f"{root}/") == []
    (experiment,) = client().search_experiments(filter_string="name = 'plays'")
    assert experiment.artifact_location == f"{copy}/mlruns/plays"

    other = make_model(tmp_path / "other", 2)
    publish(copy / "state-2", other)
    outbox.sampled(identity(other), model / "config.json", SAMPLES)
    check_version(copy, other, "2", tmp_path / "second")
    assert len(list((copy / "mlruns").rglob("model.safetensors"))) == 2
    assert registry.summary(identity(model))["version"] == "1"
    assert contents(root) == before


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("others", ["others", "no others"])
def test_artifacts_that_were_put_elsewhere_stay_there(
    root: Path, tmp_path: Path, recorded: bool, others: str
) -> None:
    if recorded:
        connect()
    places = {"disk": f"{tmp_path}/big disk/mlruns/disk"}
    if others == "others":
        places |= {"cloud": "s3://bucket/mlruns/cloud", "plays": f"{root}/mlruns/plays"}
    for name, place in places.items():
        client().create_experiment(name, place)
    connect()
    found = {e.name: e.artifact_location for e in client().search_experiments()}
    assert places.items() <= found.items()


def test_a_moved_repository_finds_all_that_was_in_it(
    root: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    publish(root / "state", model)
    places = {
        "path": f"{root}/mlruns/path",
        "address": f"file://{root}/mlruns/address",
        "quoted": (root / "mlruns" / "quoted").as_uri(),
        "elsewhere": f"{tmp_path}/big disk/mlruns/elsewhere",
        "cloud": "s3://bucket/mlruns/cloud",
    }
    client().create_registered_model("others")
    runs = {}
    for name, place in places.items():
        experiment = client().create_experiment(name, place)
        run = client().create_run(experiment)
        client().create_logged_model(experiment, name, run.info.run_id)
        client().create_model_version("others", run.info.artifact_uri, run.info.run_id)
        if name != "cloud":  # where nothing can be kept
            mlflow.start_span_no_context(name, experiment_id=experiment).end()
            client().log_text(run.info.run_id, name, "a.txt")
            runs[name] = run.info.run_id
    mlflow.flush_trace_async_logging(terminate=True)
    fixed = holders(root / "mlflow.db", "s3://"), holders(root / "mlflow.db", "/big disk/")
    assert len(holders(root / "mlflow.db", f"{root}/")) == 7  # one of them our own

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    for moved in (tmp_path / "moved once", tmp_path / "twice"):
        Path.cwd().rename(moved)
        monkeypatch.chdir(moved)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
        connect()
    assert holders(moved / "mlflow.db", "my%20repository") == []
    assert holders(moved / "mlflow.db", "my repository") == []
    assert holders(moved / "mlflow.db", f"{tmp_path}/moved once") == []
    check_version(moved, model, "1", tmp_path / "first")
    assert {name: artifact_of(run_id) for name, run_id in runs.items()} == {n: n for n in runs}
    locations = {e.name: e.artifact_location for e in client().search_experiments()}
    assert locations["elsewhere"] == places["elsewhere"]
    assert (
        holders(moved / "mlflow.db", "s3://"),
        holders(moved / "mlflow.db", "/big disk/"),
    ) == fixed


@pytest.mark.parametrize("password", ["hunter2", "hunt@er2", "hun/t@er2", "hun:t?er2"])
def test_a_password_in_an_address_is_used_and_never_shown(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"https://me:{password}@mlflow.example.org/at"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert location.tracking_uri() == address
    said = str(explain(ConnectionError(f"API request to {address}/api/2.0/mlflow/runs failed")))
    for shown in (location.address(), said):
        assert "er2" not in shown
    assert "https://mlflow.example.org/at" in said
