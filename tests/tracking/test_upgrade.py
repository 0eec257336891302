"""The database of an older MLflow, made by that MLflow's own migrations."""

import json
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command
from filelock import FileLock
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base

from nanogpt.tracking import location, upgrade
from tests.kit.recipes import Run, values
from tests.kit.trainings import client

OLD = "acf3f17fdcc7"  # of MLflow 2.8
ROWS = """
INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)
  VALUES (0, 'Default', 'mlruns/0', 'active'), (1, 'plays', '/elsewhere/mlruns/1', 'active');
INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status,
    start_time, source_version, lifecycle_stage, artifact_uri, experiment_id)
  VALUES ('0123', 'old', 'LOCAL', '', '', 'ada', 'FINISHED', 1, '', 'active', '/elsewhere/1', 1);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
  VALUES ('eval_bits_per_byte', 2.2281, 1, '0123', 0, 0);
INSERT INTO registered_models (name, creation_time) VALUES ('nanogpt-plays', 1);
INSERT INTO model_versions (name, version, creation_time, current_stage, source, run_id, status)
  VALUES ('nanogpt-plays', 1, 1, 'None', '/elsewhere/1/model', '0123', 'READY');
INSERT INTO registered_model_aliases (name, alias, version) VALUES ('nanogpt-plays', 'champion', 1);
"""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("old") / "mlflow.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    command.upgrade(_get_alembic_config(f"sqlite:///{path}"), OLD)
    engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(ROWS)
    return path


@pytest.fixture
def database(root: Path, old: Path) -> Path:
    path = root / "mlflow.db"
    path.write_bytes(old.read_bytes())
    return path


@pytest.mark.slow
def test_a_database_of_an_older_mlflow_is_upgraded_and_kept(
    database: Path, old: Path, run: Run
) -> None:
    (database.parent / "params.yaml").write_text(json.dumps(values(data="data/plays")))
    code, said = run("history")
    assert code == 2
    assert "was made by an older MLflow: `make upgrade-mlflow` upgrades it, and keeps" in said
    assert database.read_bytes() == old.read_bytes()

    code, said = run("upgrade-mlflow")
    assert code == 0, said
    copy = database.with_name(f"mlflow.db.{OLD}")
    assert said == (f"{database} is of the installed MLflow now; as it was before it is in {copy}")
    assert location.schema(copy) == OLD
    champion = client().get_model_version_by_alias("nanogpt-plays", "champion")
    (point,) = client().get_metric_history(champion.run_id, "eval_bits_per_byte")
    assert point.value == 2.2281
    assert "found when this history began" in " ".join(run("history")[1].split())
    code, said = run("upgrade-mlflow")
    assert said == f"{database} is of the installed MLflow already; nothing was changed"
    assert len(list(database.parent.glob("mlflow.db.*"))) == 2  # the copy, and a lock


def test_an_upgrade_that_fails_leaves_all_as_it_was(
    database: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(words: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("DROP TABLE runs")  # in its middle
        return subprocess.CompletedProcess(words, 1, "", "Traceback\nKeyError: runs\n")

    monkeypatch.setattr(upgrade.subprocess, "run", fail)
    for copy in (f"mlflow.db.{OLD}", f"mlflow.db.{OLD}-2"):
        code, said = run("upgrade-mlflow")
        assert code == 2
        assert said.endswith(
            f"which is as it was, and kept in {database.with_name(copy)}: KeyError: runs"
        )
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("SELECT name FROM runs").fetchall() == [("old",)]


@pytest.mark.parametrize(
    ("uri", "code", "says"),
    [
        ("http://127.0.0.1:9", 2, "is not a database of this machine"),
        ("sqlite:///none.db", 2, "none.db is not there, so there is nothing to upgrade"),
        ("sqlite:///text.db", 2, "is of no use to MLflow (file is not a database)"),
        ("sqlite:///newer.db", 2, "made by a newer MLflow than the installed one, or by none"),
        ("sqlite:///locked.db", os.EX_TEMPFAIL, "another process is at"),
    ],
)
def test_what_cannot_be_upgraded_is_one_message(
    database: Path, run: Run, monkeypatch: pytest.MonkeyPatch, uri: str, code: int, says: str
) -> None:
    Path("text.db").write_bytes(b"to be or not to be" * 1000)
    for name in ("newer.db", "locked.db"):
        Path(name).write_bytes(database.read_bytes())
    with closing(sqlite3.connect("newer.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    monkeypatch.setattr(upgrade, "BUSY_SECONDS", 0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with FileLock("locked.db.lock"):
        ended, said = run("upgrade-mlflow")
    assert ended == code
    assert says in said
    assert not list(Path.cwd().glob(f"*.db.{OLD}*"))
