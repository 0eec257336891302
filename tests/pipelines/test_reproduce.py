"""A registered version built again, after the code and the settings have changed."""

import importlib.metadata
import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from dvc.repo import Repo
from filelock import FileLock

from nanogpt.common.states import dvc_md5
from pipelines import environment, worktree
from pipelines.graph import NotNow, RecipeError
from pipelines.origin import Code, Digests, Machine, Of, Origin, Record, find_origin
from pipelines.plan import doubts
from pipelines.rebuild import Rebuild
from pipelines.verdict import Row, digests, judge, wrong_input
from tests.kit.checkouts import FEW, OTHER, commit, git, make_checkout, run
from tests.kit.recipes import values

PLAIN, TUNED, TWO = "nanogpt-test", "nanogpt-other", "nanogpt-two"
STAGES = ("tokenize", "train", "eval", "sample")
REPRODUCE = ("python", "-m", "pipelines.reproduce")
HERE = Machine(
    processor="AMD EPYC",
    instruction_set="AVX512",
    torch="2.13.0+cpu",
    torch_build="b" * 64,
    blas="mkl 2024.2-Product",
    cuda=None,
    device="cpu",
    device_name=None,
    dtype="float32",
    threads=1,
    tokenize_executor="auto",
    processes=1,
    compile=False,
    parallel="auto",
    deterministic=True,
    platform="Linux",
    variables={},
)


def origin(folder: Path, weights: str, code: Code | None = None, **digests: str) -> Origin:
    """What is recorded of a version with these weights, whose validation was 2.0 bits per byte."""
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text("data: data/test\ntrain: {max_minutes: null}\n")
    record = Record(
        of=Of(name=PLAIN, version="3"),
        recipe="test",
        params_path="params.yaml",
        code=(code or Code(commit="c" * 40, dirty=False),),
        digests=Digests(weights=weights, **digests),
        sources={},
        machine=HERE,
        packages={},
        python="3.11.2",
    )
    return Origin(f"models:/{PLAIN}/3", 2.0, folder, record)


def model_in(copy: Path, weights: bytes, bits: float) -> str:
    """What `train` leaves in a copy; the digest of its weights."""
    folder = copy / "data" / "test" / "model"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder.parent / "train.json").write_text(json.dumps({"val_bits_per_byte": bits}))
    return sha256(weights).hexdigest()


SAME, OTHER_CURVES = Row("train", "data/test/model", True), Row("train", "data/test/curves", False)
APART = {"weights": ["w", "v"], "files": ["model.safetensors"], "max_abs": 1e-3, "relative": 1e-4}


@pytest.mark.parametrize(
    ("rows", "loss", "word", "says"),
    [
        ([SAME], 2.0, "identical", "stage by stage"),
        ([SAME, Row("eval", "", None)], 2.0, "identical", "nothing is recorded of eval"),
        ([SAME, OTHER_CURVES], 2.0, "equivalent", "train is the first stage that differs"),
    ],
)
def test_weights_of_the_same_bytes_are_identical_or_equivalent(
    tmp_path: Path, rows: list[Row], loss: float, word: str, says: str
) -> None:
    known = origin(tmp_path / "lineage", model_in(tmp_path, b"weights", loss))
    found = judge(known, rows, tmp_path, None)
    assert (found.word, found.code) == (word, 0)
    assert says in found.why


@pytest.mark.parametrize(
    ("distance", "loss", "word", "says"),
    [
        (None, 2.0029, "equivalent", "before: 0.0029 apart"),
        (None, 2.0031, "different", "validation 2.0031 bits per byte, and 2.0000 before"),
        (None, float("nan"), "different", "nan"),
        (APART | {"bits_per_byte": [1.9, 1.9001]}, 9.0, "equivalent", "at most 0.001 apart"),
        (APART | {"bits_per_byte": [1.9, 1.91]}, 9.0, "different", "before: 0.0100 apart"),
        (APART | {"weights": ["x", "w"]}, 2.0, "different", "in MLflow are not those"),
    ],
)
def test_other_weights_are_as_good_as_their_loss(
    tmp_path: Path, distance: dict[str, Any] | None, loss: float, word: str, says: str
) -> None:
    model_in(tmp_path, b"others", loss)
    rows = [Row("tokenize", "data/test/tokens", True), Row("train", "data/test/model", False)]
    found = judge(origin(tmp_path / "lineage", "w"), rows, tmp_path, distance)
    assert (found.word, found.code) == (word, int(word == "different"))
    assert says in found.why


def test_digests_are_those_of_dvc_lock_and_name_the_first_file(tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    folder.mkdir()
    for name in ("b.bin", "a.json"):
        (folder / name).write_text(name)
    assert digests(folder)[""] == dvc_md5(folder)
    assert digests(folder / "a.json")[""] == dvc_md5(folder / "a.json")
    before = digests(folder)
    (folder / "b.bin").write_text("B.bin")
    assert [name for name, md5 in digests(folder).items() if md5 != before[name]] == ["", "b.bin"]
    assert digests(tmp_path / "absent") == {}


@pytest.mark.parametrize("odd", ["corpus/plays.txt", "vocabulary/vocab.bpe", "manifest.json"])
def test_a_text_that_is_another_is_named_by_its_file(tmp_path: Path, odd: str) -> None:
    raw, base = tmp_path / "raw", tmp_path / "base"
    files = {}
    for name in ("corpus/plays.txt", "vocabulary/vocab.bpe"):
        (raw / name).parent.mkdir(parents=True)
        (raw / name).write_text(name)
        files[name] = {"name": name, "sha256": sha256(name.encode()).hexdigest()}
    base.mkdir()
    (base / "manifest.json").write_text('{"files": [], "digest": null}')
    own, *more = files.values()
    about = {"files": [own], "digest": "d" * 64, "vocabulary": {"files": more}}
    (raw / "manifest.json").write_text(json.dumps(about))
    known = origin(tmp_path / "lineage", "w", corpus="d" * 64)
    assert wrong_input(known, tmp_path) is None
    (raw / odd).write_text('{"files": [], "digest": "e"}')
    assert wrong_input(known, tmp_path) == f"raw/{odd}"


def test_an_environment_is_what_was_recorded_of_what_the_lock_names(tmp_path: Path) -> None:
    recorded = {"Torch": "2.12.0+cpu", "numpy": "2.4.1", "pytest": "8", "of-mine": "1"}
    assert environment.versions(tmp_path, recorded) == {
        "torch": "2.12.0+cpu",
        "numpy": "2.4.1",
        "pytest": "8",
        "of-mine": "1",
    }
    lock = "# made by make\ntorch==2.13.0\nnumpy==2.4.1\npytest==9\nsix==1.17.0\n"
    (tmp_path / "requirements.lock").write_text(f"{lock}nothing==1 ; python_version < '3'\n")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["torch>=2.12"]\n'
        '[project.optional-dependencies]\ndev = ["pytest>=8", "torch"]\n'
    )
    wanted = {"torch": "2.12.0+cpu", "numpy": "2.4.1", "six": "1.17.0"}
    assert environment.versions(tmp_path, recorded) == wanted


def test_a_build_of_a_package_is_what_the_index_has_here() -> None:
    here = importlib.metadata.version("torch")
    public = here.partition("+")[0]
    assert environment.differing({"torch": f"{public}+cu128"}) == {}
    assert environment.differing({"torch": "1.0", "absent-from-here": "2"}) == {
        "torch": ("1.0", here),
        "absent-from-here": ("2", None),
    }


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "file").touch()
    commit(folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"of": {"name": None, "version": None}}, "is no registered version"),
        ({"code": [{"missing": "there is no program git"}]}, "there is no program git"),
        (
            {"code": [{"commit": "a" * 40, "dirty": True, "missing": "its diff holds a password"}]},
            "the difference is not recorded \\(its diff holds a password\\)",
        ),
        ({"code": [{"commit": "a" * 40, "dirty": False}]}, "`git fetch <its path> a{40}`"),
        ({"digests": {}}, "no digest of its weights"),
        ({"machine": None}, "of another form than this code reads \\(machine:"),
    ],
)
def test_what_cannot_be_built_again_is_refused_with_the_reason(
    repository: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    known = origin(repository / "lineage", "w").record.model_dump() | changes
    answers = {"lineage": known, "reproduced": {"val_bits_per_byte": None}}
    monkeypatch.setattr("pipelines.origin.nanogpt", lambda *words: json.dumps(answers[words[0]]))
    with pytest.raises(RecipeError, match=says):
        find_origin(f"models:/{PLAIN}/3", repository / "lineage", repository)


def test_a_shallow_clone_is_told_how_to_get_the_commit(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = git(repository, "rev-parse", "HEAD").strip()
    (repository / "file").write_text("more")
    commit(repository)
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repository}", str(shallow))
    known = origin(tmp_path / "lineage", "w", Code(commit=first, dirty=False)).record.model_dump()
    answers = {"lineage": known, "reproduced": {"val_bits_per_byte": None}}
    monkeypatch.setattr("pipelines.origin.nanogpt", lambda *words: json.dumps(answers[words[0]]))
    with pytest.raises(RecipeError, match="git fetch --unshallow"):
        find_origin("m", tmp_path / "lineage", shallow)
    assert find_origin("m", tmp_path / "lineage", repository).commit == first
    with pytest.raises(RecipeError, match="is no git repository; ask in a clone of it"):
        find_origin("m", tmp_path / "lineage", tmp_path)


def test_a_copy_that_moved_with_its_checkout_takes_the_cache_that_is_there(
    repository: Path, tmp_path: Path
) -> None:
    Repo.init(str(repository)).close()
    commit(repository)
    worktree.add(copy := repository / ".dvc/tmp/reproduce/x", repository, "HEAD")
    worktree.share_cache(copy, repository)
    moved = repository.rename(tmp_path / "moved")
    copy, ready = moved / copy.relative_to(repository), tmp_path / "ready"
    ready.touch()
    rebuild = Rebuild.__new__(Rebuild)
    rebuild.top, rebuild.copy, rebuild.ready, rebuild.other = moved, copy, ready, {}
    rebuild.prepare()
    with Repo(str(copy)) as repo:
        assert Path(repo.cache.local_cache_dir) == moved / ".dvc/cache"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"processor": "ARM"}, "another processor: ARM, and AMD EPYC then"),
        ({"instruction_set": "AVX2"}, "another instruction set"),
        ({"torch_build": "c"}, "another build of torch"),
    ],
)
def test_another_kind_of_machine_is_said_beforehand(
    tmp_path: Path, changes: dict[str, Any], says: str | None
) -> None:
    known = origin(tmp_path / "lineage", "w")
    python = ".".join(map(str, sys.version_info[:3]))
    record = known.record.model_copy(update={"python": python})
    here = HERE.model_dump() | {"devices": ["cpu"], "gpus": 0, "cores": 2} | changes
    rebuild = SimpleNamespace(
        origin=replace(known, record=record), here=here, other={}, packages={}
    )
    found = doubts(rebuild)  # type: ignore[arg-type]
    assert found == [] if says is None else says in found[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A checkout that has trained a model, adapters of that, and a model on two processes.

    The adapters were trained while a file was changed. All of the code has changed since.
    """
    folder = tmp_path_factory.mktemp("reproduce") / "the first"
    return train_all(folder, empty_database)


def train_all(folder: Path, empty_database: Path) -> Path:
    make_checkout(folder)
    shutil.copy(empty_database, folder / "mlflow.db")
    own = {"root": "../..", "download__corpus": "text/*.txt", "train__steps": 4}
    two = own | {"params": "pipelines/two/params.yaml", "data": "data/two", "machine__processes": 2}
    tuned = own | {
        "params": f"{OTHER}/params.yaml",
        "data": "data/other",
        "download__base": f"models:/{PLAIN}@candidate",
        "tokenize__tokenizer": "base",
        "model": {"context": 16, "dropout": 0.0},
        "train__lora": {"rank": 2, "alpha": 4.0, "targets": "all-linear"},
        "train__optimizer": "adamw",
    }
    (folder / "pipelines" / "two").mkdir()
    shutil.copy(folder / "dvc.yaml", folder / "pipelines" / "two")
    for file, changes in ((f"{OTHER}/params.yaml", tuned), ("pipelines/two/params.yaml", two)):
        (folder / file).write_text(yaml.safe_dump(values(**FEW | changes)))
    commit(folder)
    run(folder, "python", "-m", "pipelines.run", "repro", ".")
    run(folder, "python", "-m", "pipelines.run", "repro", "two")
    trainer = folder / "nanogpt" / "trainer.py"
    trainer.write_text(trainer.read_text() + "\n# changed, and not committed\n")
    run(folder, "python", "-m", "pipelines.run", "repro", OTHER)

    for file in ("nanogpt/model.py", "nanogpt/optim.py", "nanogpt/text/documents.py"):
        (folder / file).write_text("raise SystemExit('the code of today')\n")
    commit(folder)
    git(folder, "revert", "--no-edit", "HEAD")
    for file in (folder / "nanogpt").glob("*.py"):
        file.write_text(file.read_text() + "\n# of today\n")
    for params in ("params.yaml", f"{OTHER}/params.yaml", "pipelines/two/params.yaml"):
        text = (folder / params).read_text()
        (folder / params).write_text(text.replace("seed: ", "seed: 9"))
    commit(folder)
    return folder


def copies(checkout: Path) -> list[str]:
    return [p.name for p in (checkout / ".dvc/tmp/reproduce").iterdir() if (p / ".git").exists()]


@pytest.mark.slow
@pytest.mark.parametrize("name", [PLAIN, TUNED, TWO])
def test_a_version_is_built_again_to_the_same_bytes(trained: Path, name: str) -> None:
    before = git(trained, "status", "--porcelain", "--ignored")
    model = f"models:/{name}@candidate"
    said = run(trained, *REPRODUCE, model)
    assert f"models:/{name}/1: identical: the same bytes, stage by stage\n" in said
    assert ("with what was changed and not committed" in said) == (name == TUNED)
    assert re.findall("Running stage '.*?(\\w+)':", said) == [*STAGES]
    assert "from DVC's cache" in said
    assert "the same bytes are to be expected" in said
    assert copies(trained) == []
    assert git(trained, "status", "--porcelain", "--ignored") == before
    assert "identical" in run(trained, "nanogpt", "reproduced", model)
    assert "has no version 2" in run(trained, "nanogpt", "reproduced", f"models:/{name}/2", code=2)


@pytest.mark.slow
def test_a_rebuild_that_is_stopped_goes_on(trained: Path) -> None:
    command = [sys.executable, "-m", "pipelines.reproduce", f"models:/{PLAIN}/1"]
    with subprocess.Popen(command, cwd=trained, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("> exec python -m nanogpt.stages.train"):
                process.send_signal(signal.SIGTERM)
                break
        process.stdout.read()
    assert process.returncode == 143
    (copy,) = copies(trained)
    with FileLock(trained / ".dvc/tmp/reproduce" / f"{copy}.lock"):
        said = run(trained, *REPRODUCE, f"models:/{PLAIN}/1", code=75)
    assert "is being built again already" in said
    said = run(trained, *REPRODUCE, f"models:/{PLAIN}/1")
    assert "; going on in it" in said
    assert "Running stage 'tokenize'" not in said
    assert "1: identical" in said
    assert copies(trained) == []


@pytest.mark.slow
def test_an_environment_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    python = ".".join(map(str, sys.version_info[:3]))
    environment.make({}, python, tmp_path / "empty")
    assert environment.is_made(tmp_path / "empty")
    with pytest.raises(NotNow, match="No matching distribution found for absent-from-here==2"):
        environment.make({"absent-from-here": "2"}, python, tmp_path / "other")
    assert not environment.is_made(tmp_path / "other")
