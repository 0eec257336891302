"""Which entries of a dvc.lock belong to a model: those joined to it by the same bytes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from nanogpt.common.states import dvc_md5
from nanogpt.tracking import lock, outbox
from nanogpt.tracking.run import RECORDS
from tests.kit.trainings import begin, client, identity, registration, runs

GRAPH = {  # stage → what it takes, what it makes
    "check": ([], ["inputs"]),
    "download": (["inputs"], ["raw", "base"]),
    "tokenize": (["raw"], ["tokens"]),
    "train": (["tokens", "base"], ["model"]),
    "eval": (["tokens", "base", "model"], ["eval.json"]),
    "sample": (["base", "model", "eval.json"], ["samples.md"]),
}


@pytest.fixture
def data(root: Path, model: Path) -> Path:
    """Artifacts of a recipe, the current folder the root."""
    (root / "data/plays/tokens").mkdir(parents=True)
    (root / "data/plays/tokens/train.bin").write_bytes(b"12")
    model.rename(root / "data/plays/model")
    return root / "data/plays"


def write(data: Path, **other: str) -> lock.Stages:
    """dvc.lock as DVC writes it, with other hashes of some artifacts from some stage on."""
    hashes, stages = {}, {}
    for name, (takes, makes) in GRAPH.items():
        for artifact in makes:
            there = (data / artifact).exists()
            hashes[artifact] = dvc_md5(data / artifact) if there else artifact.encode().hex()
        stages[name] = {
            "cmd": name,
            "deps": [{"path": f"data/plays/{path}", "md5": hashes[path]} for path in takes],
            "outs": [_out(data, path, hashes[path]) for path in makes],
        }
        if name in other:
            hashes[other[name]] = "another"
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    return lock.read(Path("dvc.lock"))


def _out(data: Path, artifact: str, md5: str) -> dict[str, Any]:
    sizes = [path.stat().st_size for path in (data / artifact).rglob("*") if path.is_file()]
    size = {"size": sum(sizes), "nfiles": len(sizes)}
    return {"path": f"data/plays/{artifact}", "md5": md5} | (size if sizes else {})


def test_a_training_finds_the_stages_that_made_its_tokens(data: Path) -> None:
    stages = write(data)
    tokens = Path("data/plays/tokens")
    assert [*lock.before_training(stages, tokens)] == ["check", "download", "tokenize"]
    # the text was fetched anew, and not tokenized: those tokens are of another
    assert [*lock.before_training(write(data, download="raw"), tokens)] == ["tokenize"]
    (tokens / "train.bin").write_bytes(b"21")
    assert lock.before_training(stages, tokens) == {}
    (tokens / "train.bin").write_bytes(b"123")
    assert lock.before_training(stages, tokens) == {}


@pytest.mark.parametrize(
    ("stale", "expected"),
    [
        ({}, [*GRAPH]),
        ({"train": "model"}, ["check", "download", "tokenize", "train"]),
        ({"tokenize": "tokens"}, ["check", "download", "train"]),
        ({"eval": "eval.json"}, ["check", "download", "tokenize", "train", "eval"]),
    ],
)
def test_stages_belong_to_a_model_by_the_same_bytes(
    data: Path, stale: dict[str, str], expected: list[str]
) -> None:
    stages = write(data, **stale)
    if "tokenize" in stale:  # eval took the same tokens as the training
        expected = [*expected, "eval", "sample"]
    assert set(lock.of_model(stages, data / "model")) == set(expected)
    (data / "model/config.json").write_text("{}")
    assert lock.of_model(stages, data / "model") == {}


@pytest.mark.parametrize("text", ["", "stages: [\n<<<<<<<", "stages: 3", "- 1", "\xff"])
def test_a_lock_that_is_damaged_or_away_has_no_stages(data: Path, text: str) -> None:
    assert lock.read(Path("dvc.lock")) == {}
    Path("dvc.lock").write_text(text, encoding="latin-1")
    stages = lock.read(Path("dvc.lock"))
    assert lock.of_model(stages, data / "model") == {}


def test_later_stages_are_added_to_the_record_of_their_run(data: Path) -> None:
    model = data / "model"
    state = data / "state"
    stages = write(data)
    (state / RECORDS).mkdir(parents=True)
    first = lock.before_training(stages, data / "tokens")
    (state / RECORDS / "dvc.lock").write_text(lock.dump(first))
    outbox.end(begin(state, 4), "FINISHED", model, registration(model, 2.0))
    (run,) = runs()

    def known() -> lock.Stages:
        return lock.parse(Path(client().download_artifacts(run.info.run_id, lock.LOCK)).read_text())

    assert known() == first
    outbox.locked(identity(model), model, Path("dvc.lock"))
    assert known() == stages
    # a training that has come since: its stages are not those of this run
    before = write(data)
    (model / "README.md").write_text("another")
    Path("dvc.lock").write_text(lock.dump(before))
    outbox.locked(identity(model), model, Path("dvc.lock"))
    assert known() == stages


def test_without_a_run_nothing_is_made_up(data: Path) -> None:
    write(data)
    outbox.locked(identity(data / "model"), data / "model", Path("dvc.lock"))
    assert runs() == []
