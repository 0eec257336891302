"""`nanogpt history`, `promote` and `rollback`, as a person types them."""

import json
import os
import shutil
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from nanogpt.tracking import outbox
from nanogpt.tracking.client import connect
from nanogpt.tracking.versions import gate, registry
from tests.kit.recipes import Run, values
from tests.kit.trainings import (
    begin,
    client,
    identity,
    make_model,
    registration,
    scored,
    scores,
    trial,
)

NAME = "nanogpt-plays"


@pytest.fixture(scope="module")
def thrice(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """Three versions, each champion for a while, of a recipe at the root; to be copied."""
    root = tmp_path_factory.mktemp("thrice")
    (root / ".dvc").mkdir()
    shutil.copy(empty_database, root / "mlflow.db")
    (root / "params.yaml").write_text(json.dumps(values(data="data/plays")))
    given = {number: 3.0 - int(number) / 10 for number in "123"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.chdir(root)
        patch.setattr(gate, "rescored", lambda client, name, v, trial: scores(given[v], int(v)))
        for number, bits in given.items():
            model = make_model(root / f"model-{number}", int(number))
            told = registration(model, 2.0)
            outbox.end(begin(root / number, 8), "FINISHED", model, told)
            metrics = {"eval_bits_per_byte": bits}
            outbox.evaluated(identity(model), metrics, scored("text"), trial(bits))
    return root


@pytest.fixture
def trained(root: Path, thrice: Path) -> Path:
    shutil.copytree(thrice, root, dirs_exist_ok=True)
    return root


def champion() -> str:
    return str(client().get_registered_model(NAME).aliases["champion"])


def test_a_champion_is_taken_back_twice_and_made_champion_again(trained: Path, run: Run) -> None:
    assert champion() == "3"
    code, said = run("rollback", "--reason", "forgets its lines")
    assert (code, champion()) == (0, "2")
    assert said.splitlines() == [
        "version 2 of nanogpt-plays is champion now, in the place of version 3",
        "back: make promote MODEL=models:/nanogpt-plays/3 REASON=...",
    ]
    assert run("rollback", "--model", f"models:/{NAME}", "--reason", "so does that")[0] == 0
    assert champion() == "1"
    for more in ("/3", "@candidate"):
        code, said = run("rollback", "--model", f"models:/{NAME}{more}", "--reason", "to that")
        assert (code, champion()) == (2, "1")
        assert f"a rollback goes to the champion before: say models:/{NAME}; or" in said
    code, said = run("rollback", "--reason", "and that")
    assert (code, champion()) == (2, "1")
    assert "version 1, the champion, had no champion before it" in said
    code, said = run("promote", f"models:/{NAME}/3", "--reason", "it was not its fault")
    assert (code, champion()) == (0, "3")
    _, said = run("promote", f"models:/{NAME}@champion", "--reason", "again")
    assert said == "version 3 of nanogpt-plays is champion already; nothing was changed"
    version = client().get_model_version(NAME, "3")
    assert version.description.startswith("champion by promote: it was not its fault\n")

    moves = json.loads(run("history", "--json")[1])
    assert [(m["before"], m["after"], m["by"]) for m in moves if m["alias"] == "champion"] == [
        ("", "1", "gate"),
        ("1", "2", "gate"),
        ("2", "3", "gate"),
        ("3", "2", "rollback"),
        ("2", "1", "rollback"),
        ("1", "3", "promote"),
    ]
    assert moves[-1]["evidence"]["1"]["eval_bits_per_byte"] == "2.9"
    assert moves[-1]["who"]
    lines = run("history")[1].splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.split()[2:3] == ["champion"] for line in lines) == 6
    assert "it was not its fault" in " ".join(lines)
    assert lines[-1] == "now: candidate is version 3, champion is version 3"
    assert run("history", "--model", NAME)[1].splitlines() == lines


def test_what_cannot_be_champion_is_refused(trained: Path, run: Run) -> None:
    def refused(*words: str) -> str:
        code, said = run(*words)
        assert (code, champion()) == (2, "3")
        return said

    assert "it has versions 1 to 3" in refused("promote", f"models:/{NAME}/4", "--reason", "x")
    assert "say why: REASON=" in refused("promote", f"models:/{NAME}/1", "--reason", " ")
    long = refused("rollback", "--reason", "x" * 1001)
    assert "a reason of 1,001 characters is too long; 1,000 fit" in long
    assert "Missing option '--reason'" in refused("rollback")
    client().create_registered_model("foreign")
    client().create_model_version("foreign", "file:///elsewhere")
    said = refused("promote", "models:/foreign/1", "--reason", "x")
    assert "foreign is not the model of a recipe" in said
    assert "has no model nanogpt-playz; did you mean nanogpt-plays" in refused(
        "history", "--model", "nanogpt-playz"
    )
    source = client().get_model_version(NAME, "1").source.removeprefix("models:/")
    shutil.rmtree(next((trained / "mlruns").rglob(source)))
    said = refused("promote", f"models:/{NAME}/1", "--reason", "x")
    assert f"models:/{NAME}/1 cannot be champion: its files are gone" in said
    client().delete_model_version(NAME, "2")
    said = refused("rollback", "--reason", "x")
    assert "(version 2: it was deleted; version 1: its files are gone)" in said


def test_a_deleted_model_keeps_its_history(trained: Path, run: Run) -> None:
    client().delete_registered_model(NAME)
    code, said = run("history")
    assert code == 0
    assert " ".join(said.split()).count("nanogpt-plays was deleted, and is not there now") == 2
    assert said.endswith(f"\n{NAME} was deleted")


def test_a_server_that_is_away_is_not_now(
    trained: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for command in (("history",), ("rollback", "--reason", "x")):
        code, said = run(*command)
        assert code == os.EX_TEMPFAIL
        assert said.startswith(f"{command[0]}: MLflow at http://127.0.0.1:9: ")


def test_files_that_cannot_be_looked_for_now_are_not_gone(
    trained: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(**_: object) -> None:
        raise MlflowException("API request failed with exception: Connection refused")

    monkeypatch.setattr("mlflow.artifacts.list_artifacts", away)
    assert run("rollback", "--reason", "forgets its lines")[0] == os.EX_TEMPFAIL
    assert champion() == "3"


def test_the_gate_of_a_later_score_knows_who_decided(trained: Path, run: Run) -> None:
    assert run("rollback", "--reason", "forgets its lines")[0] == 0
    assert registry.summary(identity(trained / "model-2"))["aliases"] == ["champion"]
    assert connect().get_registered_model(NAME).description.count("forgets its lines") == 1


def test_every_command_says_what_there_is_instead(trained: Path, run: Run) -> None:
    wrong = f"models:/{NAME}@champoin"
    for words in (
        ("export", wrong),
        ("push", wrong, "--repo", "me/plays", "--dry-run"),
        ("sample", "--model", wrong),
        ("compare", wrong, wrong),
        ("lineage", wrong),
        ("promote", wrong, "--reason", "x"),
    ):
        code, said = run(*words)
        assert code == 2, said
        last = said.splitlines()[-1]
        assert f"{NAME} has no alias champoin; did you mean models:/{NAME}@champion?" in last
        assert "; it has versions 1 to 3 and @candidate (version 3), @champion (v" in last
