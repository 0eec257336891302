"""What a person calls a version, and what is said of what is not there."""

import shutil
from pathlib import Path

import pytest

from nanogpt.common.errors import UserError
from nanogpt.sources.fetch import SourceError
from nanogpt.tracking import location, outbox
from nanogpt.tracking.client import connect
from nanogpt.tracking.versions.fetch import download_registered
from nanogpt.tracking.versions.names import resolve
from tests.kit.trainings import begin, client, make_model, registration


@pytest.fixture
def registry(root: Path) -> None:
    """A model of six versions, of which two were deleted, and another of none."""
    client().create_registered_model("nanogpt-plays")
    client().create_registered_model("nanogpt-poems")
    for _ in range(6):
        client().create_model_version("nanogpt-plays", "file:///elsewhere")
    for alias, version in (("candidate", "6"), ("champion", "2")):
        client().set_registered_model_alias("nanogpt-plays", alias, version)
    for version in ("1", "4"):
        client().delete_model_version("nanogpt-plays", version)


HAS = "it has versions 2 to 3, 5 to 6 and @candidate (version 6), @champion (version 2)"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("models:/nanogpt-plays@champoin", "nanogpt-plays has no alias champoin; did you mean"),
        ("models:/nanogpt-plays@champoin", "mean models:/nanogpt-plays@champion?; " + HAS),
        ("models:/nanogpt-plays/4", "no version 4: it was deleted, or there was none; " + HAS),
        ("models:/nanogpt-plays/7", "nanogpt-plays has no version 7: it was deleted, or there was"),
        ("models:/nanogpt-plays/99999999999999999999", "is not of the form"),
        ("models:/nanogpt-plays", "is not of the form models:/<name>@<alias> or models:/<name>/<"),
        ("models:/nanogpt-plays/latest", "models:/<name>/<version>; " + HAS),
        ("models:/nanogpt-plays/2@champion", "is not of the form"),
        ("models:/nanogpt-poems@champion", "has no alias champion; it has no versions"),
        ("models:/nanogpt-playz@champion", "no model nanogpt-playz; did you mean nanogpt-plays?"),
        ("models:/plays/1", "mlflow.db has no model plays; did you mean nanogpt-plays?"),
        ("models:/x/1", "has no model x; there are nanogpt-plays, nanogpt-poems"),
        ("nanogpt-plays/2", "is no version of MLflow's registry, models:/<name>@<alias> or"),
        ("data/plays/model", "`make lineage MODEL=` says which version a model directory is"),
        ("models:/", "has no model without a name; there are nanogpt-plays, nanogpt-poems"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(registry: None, model: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve(connect(), model)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_version_is_found_by_number_and_by_alias(registry: None) -> None:
    for model, number in (("@candidate", "6"), ("/3", "3"), ("/03", "3")):
        found = resolve(connect(), f"models:/nanogpt-plays{model}")
        assert (found.name, found.number) == ("nanogpt-plays", number)
        assert found.uri == f"models:/nanogpt-plays/{number}"


def test_an_empty_registry_says_so(root: Path) -> None:
    with pytest.raises(UserError, match="has no model x; it has no registered models"):
        resolve(connect(), "models:/x/1")


def test_files_that_are_gone_or_changed_are_told(root: Path, model: Path, tmp_path: Path) -> None:
    outbox.end(begin(root / "state", 8), "FINISHED", model, registration(model, 2.0))
    (weights,) = (root / "mlruns").rglob("model.safetensors")

    def refused(folder: str) -> str:
        (tmp_path / folder).mkdir()
        with pytest.raises((UserError, SourceError)) as error:
            download_registered("models:/nanogpt-plays/1", tmp_path / folder)
        assert "make reproduce" in str(error.value)
        return str(error.value)

    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.unlink()  # it may be a link to the model's own
    weights.write_bytes(data)
    assert "its model.safetensors has the SHA-256" in refused("changed")
    weights.unlink()
    assert "its model.safetensors is not there any more" in refused("without")
    shutil.rmtree(next((root / "mlruns").rglob("models")))
    assert "the files of nanogpt-plays, version 1, are gone" in refused("none")


def test_a_model_can_be_registered_again_after_all_was_deleted(root: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        model = make_model(tmp_path / f"{number}", number)
        state = root / f"state-{number}"
        outbox.end(begin(state, 8), "FINISHED", model, registration(model, 2.0))
        assert resolve(connect(), "models:/nanogpt-plays@candidate").number == "1"
        client().delete_registered_model("nanogpt-plays")
    assert location.outbox().exists()
