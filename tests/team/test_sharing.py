"""Two clones, one cache and one registry: what docs/team.md says, with real servers."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from nanogpt.formats.weights import weights_sha256
from tests.kit import team
from tests.kit.checkouts import OTHER, commit, git, make_checkout
from tests.kit.front import Front
from tests.kit.recipes import contents

pytestmark = pytest.mark.slow
_, FIRST, OTHERS, AWAY = team.blocks("docs/team.md")


class Member:
    """A clone, and its member's shell, whose variables are those of the page."""

    pulled = ""  # what a clone said when it pulled and ran

    def __init__(self, folder: Path, server: str) -> None:
        self.folder = folder
        self.variables = team.KEYS | {"MLFLOW_TRACKING_URI": server}

    def start(self, script: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["bash", "-ec", team.MAKE + script],
            cwd=self.folder,
            env=team.environment() | self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, script: str, code: int = 0) -> str:
        return said(self.start(script), code)

    def change(self, **train: Any) -> None:
        params = self.folder / "params.yaml"
        values = yaml.safe_load(params.read_text())
        values["train"] |= train
        params.write_text(yaml.safe_dump(values))


def said(process: "subprocess.Popen[str]", code: int = 0) -> str:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == code, text
    assert "Traceback" not in text, text
    return text


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, server: str, store: str) -> Member:
    """The first member, who has trained and pushed."""
    place = tmp_path_factory.mktemp("members")
    member = Member(make_checkout(place / "first"), server)
    with (member.folder / ".dvcignore").open("a") as ignored:
        ignored.write(f"/{OTHER}/dvc.yaml\n")  # as those that are shipped and were not run
    shutil.copy(Path(__file__).parents[2] / ".dvc" / ".gitignore", member.folder / ".dvc")
    git(place, "init", "--quiet", "--bare", "--initial-branch=main", "origin")
    commit(member.folder)
    git(member.folder, "remote", "add", "origin", f"{place}/origin")
    git(member.folder, "config", "push.autoSetupRemote", "true")
    here = {"http://mlflow.example.org:5000": server, "https://s3.example.org": store}
    member.run(team.fill_in(FIRST, here))
    return member


@pytest.fixture(scope="module")
def second(first: Member, server: str) -> Member:
    """Another member, who has cloned, and pulled."""
    folder = first.folder.with_name("second")
    git(first.folder.parent, "clone", "--quiet", "origin", str(folder))
    member = Member(folder, server)
    member.pulled = member.run(OTHERS.replace("shakespeare", "test"))
    return member


def test_a_clone_pulls_what_another_trained(first: Member, second: Member) -> None:
    assert second.pulled.count("didn't change, skipping") == 5  # all but `check`
    assert "version 1 (candidate, champion)" in second.pulled
    assert not second.run("git status --porcelain")
    ours, theirs = (contents(each.folder / "data/test/model") for each in (first, second))
    assert ours == theirs
    exported = contents(second.folder / "exports/nanogpt-test/hf")
    assert exported["tokenizer.json"] == ours["tokenizer.json"]


def test_a_clone_builds_again_what_another_trained(first: Member, server: str) -> None:
    folder = first.folder.with_name("third")
    git(first.folder.parent, "clone", "--quiet", "origin", str(folder))
    third = Member(folder, server)
    said = third.run("make reproduce MODEL=models:/nanogpt-test/1")
    assert "from DVC's remote (team), if it has them" in said
    assert "Running stage 'download'" not in said
    assert "models:/nanogpt-test/1: identical: the same bytes, stage by stage" in said
    assert " identical: " in third.run("nanogpt reproduced models:/nanogpt-test/1")
    assert not third.run("git status --porcelain")


def test_what_was_away_arrives_whole(first: Member, second: Member, server: str) -> None:
    front = Front(int(server.rpartition(":")[2]))
    try:
        second.variables["MLFLOW_TRACKING_URI"] = front.uri
        second.change(learning_rate=0.02)
        front.fail("refuse")
        text = second.run("dvc repro")
        assert "not decided: MLflow does not have the scores" in text
        known = MlflowClient(server)
        assert len(runs(known)) == 1
        front.mend()
        assert "registered as version 2" in second.run(AWAY)
    finally:
        front.mend()
        front.close()
        second.variables["MLFLOW_TRACKING_URI"] = server
    is_complete(known, second.folder, "2")
    assert second.run(AWAY) == ""


def test_two_train_at_once(first: Member, second: Member, server: str) -> None:
    for rate, member in ((0.03, first), (0.04, second)):
        member.change(learning_rate=rate)
    for training in [each.start("make run") for each in (first, second)]:
        said(training)
    known = MlflowClient(server)
    for member in (first, second):
        assert member.run(AWAY) == ""
        is_complete(known, member.folder)


def runs(known: MlflowClient) -> list[Any]:
    experiment = known.get_experiment_by_name("test")
    assert experiment
    return list(known.search_runs([experiment.experiment_id]))


def is_complete(known: MlflowClient, folder: Path, number: str | None = None) -> None:
    """MLflow has all of the training whose results a clone holds."""
    scores = json.loads((folder / "data/test/eval.json").read_text())
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    weights = weights_sha256(folder / "data/test/model")
    version: Any
    (version,) = known.search_model_versions(f"tags.weights_sha256 = '{weights}'")
    assert number in (None, str(version.version))
    run: Any = known.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.learning_rate"] == str(settings["train"]["learning_rate"])
    steps = [point.step for point in known.get_metric_history(version.run_id, "train_loss")]
    assert sorted(steps) == list(range(1, settings["train"]["steps"] + 1))
    assert run.data.metrics["eval_bits_per_byte"] == pytest.approx(scores["bits_per_byte"])
    assert float(version.tags["eval_bits_per_byte"]) == pytest.approx(scores["bits_per_byte"])
    assert run.data.tags["decision"] in version.description
    uses = {tag.value for data in run.inputs.dataset_inputs for tag in data.tags}
    assert uses == {"training", "validation", "evaluation", "corpus"}
    held = {file.path for file in known.list_artifacts(version.run_id)}
    assert {"samples.md", "samples.json"} <= held
    model = known.get_logged_model(version.source.removeprefix("models:/"))
    assert str(model.status) == "READY"
