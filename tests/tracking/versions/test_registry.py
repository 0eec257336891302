"""The registry, against real MLflow databases in temporary folders."""

import ast
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient

from nanogpt.formats.weights import weights_sha256
from nanogpt.tracking import describe, outbox
from nanogpt.tracking.client import connect, every
from nanogpt.tracking.versions import gate, registry, upload
from tests.kit.recipes import ROOT
from tests.kit.trainings import (
    PACKAGE,
    SAMPLES,
    begin,
    client,
    identity,
    make_model,
    registration,
    runs,
    scored,
    scores,
    trial,
    waiting,
)


def publish(folder: Path, model: Path, bits: float) -> str | None:
    """Train and register; returns the version."""
    outbox.end(begin(folder, 8, saved=8), "FINISHED", model, registration(model, bits))
    version = registry.summary(identity(model)).get("version")
    return None if version is None else str(version)


def evaluate(model: Path, bits: float, text: str) -> gate.Outcome:
    scores = {"eval_loss": bits * 0.7, "eval_bits_per_byte": bits}
    run = registry.run_of(connect(), identity(model))
    return registry.record_evaluation(
        connect(), run, identity(model), scores, scored(text), trial(bits)
    )


def test_a_model_is_registered_once(root: Path, model: Path) -> None:
    assert publish(root / "state", model, 2.0) == "1"
    assert publish(root / "state", model, 2.0) == "1"  # killed before its state was removed
    version = client().get_model_version_by_alias("nanogpt-plays", "candidate")
    assert version.version == 1
    assert version.tags == {
        "val_bits_per_byte": "2.0000",
        "weights_sha256": weights_sha256(model),
        "nanogpt.fingerprint": "0123456789abcdef",
    }
    # both ways: else the page of the model says that it is not registered
    logged_model = client().get_logged_model(version.source.removeprefix("models:/"))
    listed = json.loads(logged_model.tags["mlflow.modelVersions"])
    assert listed == [{"name": "nanogpt-plays", "version": "1"}]
    assert version.run_id == runs()[0].info.run_id
    files = [path.relative_to(root / "mlruns") for path in (root / "mlruns").rglob("*")]
    assert [path.name for path in files].count("model.safetensors") == 1
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pyc", ".pt")]


def test_an_upload_that_failed_is_done_again(
    root: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", fail)
        assert publish(root / "state", model, 2.0) is None
    assert "training plays: OSError: No space left on device" in caplog.text
    (result,) = outbox.deliver(60)
    assert result.says == "FINISHED, registered as version 1"
    assert len(list((root / "mlruns").rglob("model.safetensors"))) == 1
    assert len(client().search_logged_models([runs()[0].info.experiment_id])) == 1


def test_the_same_weights_of_another_run_are_another_version(root: Path, model: Path) -> None:
    assert publish(root / "first", model, 2.0) == "1"
    assert publish(root / "second", model, 2.0) == "2"
    known = registry.summary(identity(model))
    assert known["version"] == "2"
    assert known["aliases"] == ["candidate"]
    assert known["tokens_per_second"] == 1e5 + 4.5


def test_what_was_decided_is_told_at_every_place(
    root: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "rescored", lambda *_: scores(2.5, seed=1))
    publish(root / "first", model, 2.0)
    first = evaluate(model, 2.5, "text")
    assert (first.promoted, first.name, first.version) == (True, "nanogpt-plays", "1")
    better = make_model(tmp_path / "better", seed=2)
    publish(root / "second", better, 2.0)
    outcome = evaluate(better, 2.4, "another text")
    assert (outcome.promoted, outcome.version) == (True, "2")

    version = client().get_model_version("nanogpt-plays", "2")
    assert version.tags["eval_bits_per_byte"] == "2.4"
    assert version.tags["eval_text_sha256"] == "another text"
    assert version.description.startswith(f"{outcome.reason}\n")
    told = client().get_registered_model("nanogpt-plays").description
    about, _, moves = told.partition("## Champion: version 2\n")
    assert "the recipe `plays`" in about
    rows = [row.split(" | ")[1:] for row in moves.splitlines() if row.startswith("| 2")]
    assert rows == [["2", "1", f"{outcome.reason} |"], ["1", "none", f"{first.reason} |"]]
    run = client().get_run(version.run_id)
    assert run.data.tags["decision"] == outcome.reason
    assert run.data.metrics["eval_bits_per_byte"] == 2.4
    gain = run.data.metrics["gate_gain"]
    assert gain == pytest.approx(0.04, abs=1e-5)
    assert run.data.metrics["gate_low"] < gain < run.data.metrics["gate_high"]
    model_metrics = client().get_logged_model(version.source.removeprefix("models:/")).metrics
    assert {(m.key, m.value, m.dataset_name) for m in model_metrics} == {
        ("val_loss", 0.625, "plays, val"),
        ("val_bits_per_byte", 0.3125, "plays, val"),
        ("eval_loss", 1.68, "plays, test"),
        ("eval_bits_per_byte", 2.4, "plays, test"),
    }


def test_results_belong_to_the_model_of_their_recipe_and_lineage(
    root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "rescored", lambda *_: scores(2.1))
    for recipe, tokens in (("plays", "a"), ("plays", "b"), ("poems", "a")):
        run = begin(root / f"{recipe}-{tokens}", 4, recipe=recipe, tokens_sha256=tokens)
        told = registration(model, 2.0) | {"tags": {"tokens_sha256": tokens}}
        outbox.end(run, "FINISHED", model, told)
    bits = {("plays", "a"): 2.1, ("plays", "b"): 2.2, ("poems", "a"): 2.3}
    for (recipe, tokens), value in bits.items():
        made, metrics = identity(model, recipe, tokens_sha256=tokens), {"eval_bits_per_byte": value}
        outbox.evaluated(made, metrics, scored("text"), trial(value))
    found = {
        (client().get_experiment(run.info.experiment_id).name, run.data.tags["tokens_sha256"]): run
        for run in runs()
    }
    assert {key: run.data.metrics["eval_bits_per_byte"] for key, run in found.items()} == bits
    for (recipe, tokens), value in bits.items():
        versions = client().search_model_versions(f"name = 'nanogpt-{recipe}'")
        (version,) = [v for v in versions if v.run_id == found[recipe, tokens].info.run_id]
        assert version.tags["eval_bits_per_byte"] == str(value)
    champions = [client().get_registered_model(f"nanogpt-{n}").aliases for n in ("plays", "poems")]
    assert [int(aliases["champion"]) for aliases in champions] == [1, 1]


def test_scores_outlive_a_run_that_was_deleted(root: Path, model: Path) -> None:
    publish(root / "state", model, 2.0)
    (made,) = runs()
    client().delete_run(made.info.run_id)
    made, metrics = identity(model, tokens_sha256="d"), {"eval_bits_per_byte": 2.5}
    decision = outbox.evaluated(made, metrics, scored("text"), trial(2.5))
    assert decision == "the first champion: 2.5000 bits per byte"
    outbox.sampled(identity(model), model / "config.json", SAMPLES)
    (own,) = runs()
    assert own.data.metrics == {"eval_bits_per_byte": 2.5}
    assert own.info.status == "FINISHED"
    assert [file.path for file in client().list_artifacts(own.info.run_id)] == [
        "config.json",
        "samples.json",
    ]
    assert registry.summary(identity(model))["aliases"] == ["candidate", "champion"]
    assert waiting() == []


def test_scores_of_a_model_that_was_trained_elsewhere_are_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = registry.Identity("plays", "0" * 64)
    assert registry.summary(strange) == {}
    with monkeypatch.context() as patch:  # a kill when their run has just been made
        patch.setattr(MlflowClient, "set_terminated", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            registry.run_of(connect(), strange)
    decision = outbox.evaluated(strange, {"eval_bits_per_byte": 2.0}, scored("text"), trial(2.0))
    assert decision == "the weights are not registered, so there is nothing to promote"
    (own,) = runs()
    assert own.data.metrics == {"eval_bits_per_byte": 2.0}
    assert own.info.status == "FINISHED"
    assert waiting() == []


def fill(database: Path, table: str, rows: int, **values: str) -> None:
    """Add many rows to a table of MLflow's; `{}` in a value is their number."""
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(
            f"INSERT INTO {table} ({names}) VALUES ({marks})",
            [[value.format(row) for value in values.values()] for row in range(rows)],
        )


def test_what_is_not_on_the_first_page_is_found(root: Path, model: Path) -> None:
    assert publish(root / "state", model, 2.0) == "1"
    newer = {"lifecycle_stage": "active", "creation_time": "9{:013}"}  # these are listed first
    fill(root / "mlflow.db", "experiments", 1200, name="other {}", **newer)
    assert len(client().search_experiments()) == 1000
    assert len([*every(client().search_experiments)]) > 1200
    assert evaluate(model, 2.0, "text").version == "1"
    assert registry.summary(identity(model))["version"] == "1"


SERVE = """
import sys
import mlflow
model = mlflow.pyfunc.load_model("models:/nanogpt-plays@champion")
first = model.predict(["ROMEO:"])
assert model.input_example == ["ROMEO:"], model.input_example
assert isinstance(first, list) and len(first) == 1 and len(first[0]) == 6 + 20, first
assert first[0].startswith("ROMEO:")
assert model.predict(["ROMEO:"]) == first
assert model.predict(["ROMEO:", "JULIET:"], params={"tokens": 3, "seed": 2})[1][:7] == "JULIET:"
assert len(model.predict(["A"], params={"tokens": 3, "top_k": 1, "temperature": 0.0})[0]) == 4
assert model.predict(["A"], params={"stop": [first[0][8]]})[0].find(first[0][8]) == -1
print(sys.modules["nanogpt"].__file__)
"""


def test_a_champion_is_served_without_the_repository(
    root: Path, model: Path, tmp_path: Path
) -> None:
    publish(root / "state", model, 2.0)
    evaluate(model, 2.0, "text")
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


@pytest.mark.slow
def test_a_version_answers_as_the_docs_say(root: Path, model: Path) -> None:
    publish(root / "state", model, 2.0)
    evaluate(model, 2.0, "text")
    docs = (ROOT / "docs" / "running.md").read_text().partition("## The registry")[2]
    serve, ask = re.findall(r"^((?:MLFLOW_|curl ).*?[^\\])$", docs, re.S | re.M)[:2]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("MLFLOW_TRACKING_URI")

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])

    def here(command: str) -> str:
        return command.replace("shakespeare", "plays").replace("5001", port)

    server = subprocess.Popen(here(serve), shell=True, env=environment, start_new_session=True)
    try:
        patient = "--noproxy '*' --fail --silent --retry 60 --retry-connrefused --retry-delay 1"
        command = f"{here(ask)} {patient}"
        said = subprocess.run(command, shell=True, check=True, capture_output=True).stdout
        asked = {"inputs": ["A", "JULIET:"], "params": {"tokens": 3}}
        address = f"http://127.0.0.1:{port}/invocations"
        batch = httpx.post(address, json=asked, trust_env=False, timeout=60).json()["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    for prompt, text in zip(("JULIET:", "ROMEO:"), json.loads(said)["predictions"], strict=True):
        assert text.startswith(prompt)
        assert len(text) == len(prompt) + 60
    assert [len(text) for text in batch] == [1 + 3, len("JULIET:") + 3]


def test_the_requirements_are_what_serving_imports() -> None:
    seen, found, todo = set(), {"mlflow"}, [PACKAGE / "serving" / "pyfunc.py"]
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
            found |= {name.partition(".")[0].lower() for name in names}
            for name in names:
                place = PACKAGE.parent / name.replace(".", "/")
                files = (place.with_name(f"{place.name}.py"), place / "__init__.py")
                todo += [file for file in files if file.is_file() and file not in seen]
    found -= sys.stdlib_module_names | {"nanogpt", "tiktoken_ext"}  # part of tiktoken
    assert sorted(found) == sorted(name.partition(".")[0] for name in upload.REQUIREMENTS)


def test_the_table_of_champions_keeps_the_last_and_what_a_person_wrote() -> None:
    text = f"{describe.registered('plays')}\n\nNot for children."
    moves: list[tuple[str, str, str, str]] = []
    for number in range(1, describe.MOVES + 5):
        moves = [("2026-11-26 11:05", str(number), str(number - 1), "better"), *moves]
        text = describe.champions(text, moves) + "\nA last word."
    rows = [line.split(" | ")[1] for line in describe.rows(text)]
    assert rows == [str(number) for number in range(describe.MOVES + 4, 4, -1)]
    assert "Not for children." in text.partition("<!-- champions")[0]
    assert text.endswith("A last word.")
    assert len(text) < describe.LENGTH


def test_what_a_person_wrote_into_a_description_stays() -> None:
    mine = "My favourite.\n\n---\n\n## Champion\n\nof my heart\n\n## Championship"
    first, second = ("2026-11-26", "1", "", "a | b"), ("2026-11-26", "2", "1", "better")
    for _ in range(2):
        mine_and_ours = describe.decided(mine, "the first champion")
        assert mine_and_ours.endswith(mine)
        again = describe.decided(mine_and_ours, "the champion already")
        assert again == describe.decided(mine, "the champion already")
        moves = describe.champions(mine, [first])
        assert moves.startswith(mine)
        assert describe.rows(moves) == ["| 2026-11-26 | 1 | none | a / b |"]
        assert len(describe.rows(describe.champions(moves, [second, first]))) == 2
    long = "x" * describe.LENGTH
    assert describe.decided(long, "better") == describe.champions(long, [first]) == long
    room = "x" * (describe.LENGTH - 300)
    told = describe.decided(describe.decided(room, "the first champion"), "better " * 99)
    assert told.startswith("better better ")
    assert "first" not in told
    assert told.endswith(room)
    assert len(told) == describe.LENGTH
    assert len(describe.champions(room, [second, first])) <= describe.LENGTH


def test_a_card_is_a_description_without_head_and_code(model: Path) -> None:
    body = "A model.\n\n| a | b |\n|---|---|\n\n```python\nimport x\n```\n\nThese settings:\n\nx"
    secret = "trained on `https://me:hunter2@example.org/a.txt`"
    (model / "README.md").write_text(f"---\nlicense: mit\n---\n# plays\n\n{secret} {body}")
    card = describe.card(model)
    assert card.startswith("trained on `https://example.org/a.txt` A model.")
    assert "import x" not in card
    (model / "README.md").write_text(f"# plays\n{body}{'x' * 9000}")
    assert describe.card(model).endswith("|---|---|")


def test_samples_are_a_table_that_is_the_same_when_it_is_sent_twice(root: Path) -> None:
    run = registry.run_of(connect(), registry.Identity("plays", "0" * 64))
    for _ in range(2):
        registry.record_samples(connect(), run, "samples.md", "# Samples", SAMPLES)
    table = client().load_table(run.info.experiment_id, registry.TABLE)
    assert table.to_dict("list") == SAMPLES
