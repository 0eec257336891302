"""Where a model comes from, as a tree and as files; and all that was made from something."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanogpt.common.files import list_files
from nanogpt.common.manifest import write_manifest
from nanogpt.formats.base import Base
from nanogpt.settings import load
from nanogpt.text.tokens import open_tokens
from nanogpt.tracking import outbox
from nanogpt.tracking.run import RECORDS
from nanogpt.tracking.versions import record
from tests.kit.checkouts import commit, git
from tests.kit.recipes import QUICK, Run, values
from tests.kit.trainings import begin, client, make_model, registration, runs

FACTS = {
    "device": "cpu",
    "dtype": "float32",
    "compile": False,
    "deterministic": True,
    "processes": 2,
    "threads": 1,
    "parallel": "ddp",
}
BASE = "models:/nanogpt-plays/1"


@pytest.fixture(scope="module")
def registry(
    tokenized: Path, empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """`plays` 1, `plays` 2 of before there were records, and `mine` 1, made from `plays` 1."""
    folder = tmp_path_factory.mktemp("registry")
    shutil.copytree(tokenized / "data", folder / "data")
    shutil.copytree(tokenized / "text", folder / "text")
    manifest = folder / "data/test/raw/manifest.json"
    raw = json.loads(manifest.read_text())
    raw["vocabulary"] = {
        "name": "words",
        "source": f"wheel words==1.0 (sha256 {'5' * 64})",
        "files": [],
    }
    manifest.write_text(json.dumps(raw))
    (folder / ".dvc").mkdir()
    (folder / "nanogpt").mkdir()
    (folder / "nanogpt/__init__.py").touch()
    (folder / ".gitignore").write_text("data\nmlflow.db*\nmlruns\n.dvc\n")
    changes: dict[str, Any] = QUICK | {"download__corpus": "text/*.txt"}
    (folder / "params.yaml").write_text(yaml.safe_dump(values(data="data/test", **changes)))
    git(folder, "init", "--quiet")
    commit(folder)
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", "")
        first = make_model(folder / "data/plays", 1)
        train(folder / "first", "plays", first)
        old = make_model(folder / "data/old", 2)
        outbox.end(
            begin(folder / "old", 4, tokens_sha256="d" * 64),
            "FINISHED",
            old,
            registration(old, 2.0),
        )
        (folder / "nanogpt/new.py").write_text("changed = True\n")
        base = folder / "data/test/base"
        shutil.copytree(first, base, dirs_exist_ok=True)
        (base / "manifest.json").unlink()
        files = list_files(base)
        lineage: dict[str, str | None] = {"model": "nanogpt-plays", "version": "1"}
        described = {"source": BASE, "licence": "my own", "digest": "b" * 64}
        write_manifest(
            base,
            Base(name="models:/nanogpt-plays@champion", files=files, lineage=lineage, **described),
        )
        train(folder / "second", "mine", make_model(folder / "data/mine", 3))
        yield folder


def train(state: Path, recipe: str, model: Path) -> None:
    """What a training leaves in MLflow."""
    settings = load(Path("params.yaml"))
    tokens = open_tokens(settings.path("tokens"))
    base = Base.model_validate_json((settings.path("base") / "manifest.json").read_bytes())
    folder = state / RECORDS
    state.mkdir()
    record.begin(folder, settings, tokens, base, FACTS, resumes=False)
    run = begin(state, 4, recipe=recipe, **record.run_tags(folder))
    told = registration(model, 2.0) | {"made_of": record.complete(folder, model)}
    outbox.end(run, "FINISHED", model, told)


def test_a_model_is_followed_to_the_files_it_came_from(registry: Path, run: Run) -> None:
    code, said = run("lineage", "models:/nanogpt-mine/1")
    assert code == 0
    head = git(registry, "rev-parse", "HEAD")[:12]
    before, mine, plays = said.partition("models:/nanogpt-plays/1")
    assert f"code of commit {head}, changed by code.diff" in before
    assert "base models:/nanogpt-plays@champion bbbbbbbbbbbb" in before
    assert mine
    for line in (f"code of commit {head}\n", "corpus text/*.txt", "from text/*.txt: ", "licence: "):
        assert line in plays
    assert "float32 on cpu, 2 processes of 1 thread" in plays
    # the same by its directory, and by the run that trained it
    assert run("lineage", registry / "data/mine")[1] == said
    (version,) = client().search_model_versions("name = 'nanogpt-mine'")
    assert run("lineage", version.run_id)[1] == said


def test_a_record_goes_out_as_files_that_make_the_code_again(
    registry: Path, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    code, said = run("lineage", "models:/nanogpt-mine@candidate", "--json", "--out", out)
    assert code == 0
    found = json.loads(said)
    assert found.pop("of")["name"] == "nanogpt-mine"
    assert found == json.loads((out / "record.json").read_text())
    assert found["params_path"] == "params.yaml"
    assert {path.name for path in out.iterdir()} == {
        "record.json",
        "params.yaml",
        "code.diff",
    }
    assert (out / "params.yaml").read_text() == (registry / "params.yaml").read_text()
    git(registry, "worktree", "add", "--quiet", "--detach", str(tmp_path / "again"))
    git(tmp_path / "again", "apply", str(out / "code.diff"))
    assert (tmp_path / "again/nanogpt/new.py").read_text() == "changed = True\n"
    # once more into the same folder, and never over something else
    assert run("lineage", "models:/nanogpt-mine/1", "--out", out)[0] == 0
    code, said = run("lineage", "models:/nanogpt-mine/1", "--out", registry / "text")
    assert (code, "name another folder" in said) == (2, True)


@pytest.mark.parametrize(
    ("of", "why"),
    [
        ("text/*.txt", "corpus text/*.txt"),
        ("text", "files, in its corpus text/*.txt"),
        ("text/nanogpt_model.txt", "a file of its corpus text/*.txt"),
        ("data/test/raw", "files, in its corpus text/*.txt"),
        ("data/test/tokens", "tokens"),
        ("{corpus}", "corpus"),
        ("{file}", "of its corpus text/*.txt"),
        ("words==1.0", "vocabulary from wheel words==1.0"),
        ("words", "vocabulary from wheel words==1.0"),
        ("{commit}", "commit"),
        ("data/plays", "weights"),
        (BASE, "base"),
        ("models:/nanogpt-plays@candidate", None),
    ],
)
def test_what_was_made_from_something_is_found(
    registry: Path, run: Run, of: str, why: str | None
) -> None:
    raw = json.loads((registry / "data/test/raw/manifest.json").read_text())
    words = {"corpus": raw["digest"][:8], "file": raw["files"][0]["sha256"]}
    code, said = run(
        "lineage",
        "--json",
        "--of",
        of.format(commit=git(registry, "rev-parse", "HEAD").strip(), **words),
    )
    assert code == 0
    found = {each["model"]: each["why"] for each in json.loads(said)}
    if why is None:  # version 2 is the candidate
        assert found == {}
        return
    made = "models:/nanogpt-mine/1"
    assert made in found  # if by nothing else, because it was trained from the other
    assert why in found[made if of == BASE else BASE]
    assert "models:/nanogpt-plays/2" not in found


def test_what_could_not_be_searched_is_said(
    registry: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run("lineage", "--of", "text/*.tx")
    assert code == 2
    assert "1 of 3 versions could not be searched" in said
    assert "models:/nanogpt-plays/2" in said
    assert "did you mean text/*.txt?" in said
    assert run("lineage", "--of", "0123456789abcdef")[1] == (
        "of 3 versions none was made from 0123456789abcdef"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["models:/nanogpt-plys/1"], "did you mean nanogpt-plays"),
        (["models:/nanogpt-mine/7"], "it has version 1"),
        (["models:/nanogpt-plays/2", "--json"], "has no record of where it comes from"),
        (["0" * 32], "has no run 0000"),
        (["text"], "neither a model in MLflow's registry"),
        ([], "say a model"),
        (["models:/nanogpt-mine/1", "--of", "text"], "say a model"),
        (["--of", ""], "--of is empty"),
        (["--of", "text", "--out", "here"], "say a model"),
    ],
)
def test_what_cannot_be_told_is_said_in_a_line(
    registry: Path, run: Run, words: list[str], says: str
) -> None:
    code, said = run("lineage", *words)
    assert code == 2
    assert says in said
    assert not (registry / "here").exists()


def test_of_what_has_no_record_all_is_told_that_is_known(
    registry: Path, run: Run, tmp_path: Path
) -> None:
    code, said = run("lineage", "models:/nanogpt-plays/2")
    assert code == 0
    assert "has no record of where it comes from" in said
    assert f"tokens_sha256 {'d' * 64}" in said  # a line is not cut
    stranger = make_model(tmp_path / "stranger", 9)
    assert "knows no version with the weights" in run("lineage", stranger)[1]
    (stranger / "README.md").write_text(f"| corpus | `{'c' * 64}` |\n| tokens | `{'d' * 64}` |\n")
    code, said = run("lineage", stranger)
    assert code == 0
    assert "as its card says" in said
    assert "corpus cccccccccccc" in said


def test_an_artifact_that_was_changed_is_refused(registry: Path, run: Run) -> None:
    (version,) = client().search_model_versions("name = 'nanogpt-mine'")
    (stored,) = (found for found in runs() if found.info.run_id == version.run_id)
    diff = Path(stored.info.artifact_uri) / RECORDS / "code.diff"
    before = diff.read_bytes()
    diff.write_bytes(before + b"\n")
    code, said = run("lineage", "models:/nanogpt-mine/1", "--json")
    diff.write_bytes(before)
    assert (code, "code.diff of its run is not as it was recorded" in said) == (2, True)
