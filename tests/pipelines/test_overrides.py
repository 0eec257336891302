"""Settings for one run: refused before anything runs, or run in a copy, an experiment later."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from nanogpt.settings import load
from pipelines.graph import RecipeError
from pipelines.overrides import COPIES, Copy, experiment, refuse_secrets, title
from tests.kit.checkouts import OTHER, commit, git, make_checkout, run


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_checkout(tmp_path / "checkout")
    monkeypatch.chdir(folder)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.org")
    return folder


def copies(checkout: Path) -> list[str]:
    return [path.name for path in (checkout / COPIES).iterdir() if path.is_dir()]


@contextmanager
def failing(changes: dict[str, object]) -> Iterator[Copy]:
    """A run with these settings, of which a stage fails in the end."""
    with suppress(RuntimeError), experiment(Path(OTHER), changes) as copy:
        yield copy
        raise RuntimeError("a stage failed")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"train.stpes": 3}, "has no key train.stpes; did you mean train.steps"),
        ({"train.steps": "many"}, "train.steps"),
        ({"nowhere.steps": 3}, "has no key nowhere.steps"),
        ({"data": "data/mine"}, "data cannot be overridden"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key(
    checkout: Path, wrong: dict[str, object], says: str
) -> None:
    before = (checkout / "params.yaml").read_bytes()
    with pytest.raises(RecipeError, match=says), experiment(Path(), wrong):
        pytest.fail("something would run")
    assert (checkout / "params.yaml").read_bytes() == before
    assert not (checkout / COPIES).exists() or copies(checkout) == []


def test_the_copy_holds_what_is_here_and_waits_for_the_next_try(checkout: Path) -> None:
    changes = {"train.steps": 3}
    code = checkout / "nanogpt" / "model.py"
    code.write_text(code.read_text() + "# not committed\n")
    (checkout / "nanogpt" / "mine.py").write_text("# not known to git\n")
    (checkout / "poem.txt").write_text("To be")
    files = ("nanogpt/model.py", "nanogpt/mine.py", "poem.txt")
    with failing(changes) as copy:
        assert load(copy.top / OTHER / "params.yaml").train.steps == 3
        for name in files:
            assert (copy.top / name).read_bytes() == (checkout / name).read_bytes()
        (copy.top / "data").mkdir(exist_ok=True)
        (copy.top / "data" / "half done").touch()
        with pytest.raises(RecipeError, match="is at work"), experiment(Path(OTHER), changes):
            pytest.fail("two would run in one copy")
    assert copies(checkout) == [copy.name] == ["other-train.steps=3"]

    (checkout / "nanogpt" / "mine.py").write_text("# edited\n")
    with failing(changes) as copy:
        assert (copy.top / "data" / "half done").exists()
        for name in files:
            assert (copy.top / name).read_bytes() == (checkout / name).read_bytes()
    assert copies(checkout) == [copy.name]


def test_what_is_typed_arrives_as_it_is(checkout: Path) -> None:
    odd = "a\u2028b\x85 'c'"
    with failing({"sample.prompt": odd}) as copy:
        assert load(copy.top / OTHER / "params.yaml").sample.prompt == odd


def test_a_copied_checkout_has_copies_of_its_own(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"train.steps": 3}
    with failing(changes) as copy:
        (copy.top / "half done").touch()
    other = tmp_path / "copied"
    shutil.copytree(checkout, other, symlinks=True)
    monkeypatch.chdir(other)
    with failing(changes) as own:
        assert not (own.top / "half done").exists()
        top = git(own.top, "rev-parse", "--path-format=absolute", "--git-common-dir")
        assert Path(top.strip()) == other / ".git"
    assert (copy.top / "half done").exists()
    monkeypatch.chdir(checkout)
    with failing(changes) as copy:
        assert (copy.top / "half done").exists(), "the first one's goes on"


def test_a_copy_that_was_half_removed_is_made_anew_and_nothing_here_is_touched(
    checkout: Path,
) -> None:
    with failing({"train.steps": 3}) as copy:
        (copy.top / ".git").unlink()  # as an interrupted removal leaves it
    code = checkout / "nanogpt" / "model.py"
    code.write_text("# my work of today\n")
    head = git(checkout, "rev-parse", "--abbrev-ref", "HEAD")
    with failing({"train.steps": 3}) as copy:
        assert (copy.top / "nanogpt" / "model.py").read_text() == "# my work of today\n"
    assert code.read_text() == "# my work of today\n"
    assert git(checkout, "rev-parse", "--abbrev-ref", "HEAD") == head


def test_a_moved_checkout_goes_on_in_its_copies(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with failing({"train.steps": 3}) as copy:
        (copy.top / "half done").touch()
    moved = checkout.rename(tmp_path / "moved")
    monkeypatch.chdir(moved)
    with failing({"train.steps": 3}) as copy:
        assert copy.top.is_relative_to(moved)
        assert (copy.top / "half done").exists()
        assert load(copy.top / OTHER / "params.yaml").train.steps == 3


def test_on_the_next_try_code_is_that_of_now_and_results_are_those_of_the_copy(
    checkout: Path,
) -> None:
    for name in ("dvc.lock", "data/other/train.json"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("of the checkout")
    commit(checkout)
    hook = checkout / ".git" / "hooks" / "post-checkout"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    module = checkout / "nanogpt" / "mine.py"
    module.write_text("# one\n")
    (checkout / "nanogpt" / ".#lock").symlink_to("nowhere")
    with failing({"train.steps": 3}) as copy:
        (copy.top / "dvc.lock").write_text("of the copy")
        (copy.top / "data/other/train.json").write_text("of the copy")
    module.rename(module.with_name("mine2.py"))
    with failing({"train.steps": 3}) as copy:
        names = {path.name for path in (copy.top / "nanogpt").glob("mine*")}
        assert names == {"mine2.py"}
        assert (copy.top / "dvc.lock").read_text() == "of the copy"
        assert (copy.top / "data/other/train.json").read_text() == "of the copy"


def test_without_a_commit_it_says_what_to_do(checkout: Path) -> None:
    git(checkout, "update-ref", "-d", "HEAD")
    with pytest.raises(RecipeError, match="first commit"), experiment(Path(), {"seed": 3}):
        pytest.fail("something would run")


def test_a_title_is_what_one_would_say(checkout: Path) -> None:
    assert title(OTHER, {"train.steps": 3, "sample.prompt": "To be"}) == (
        "other train.steps=3 sample.prompt=To be"
    )


@pytest.mark.slow
def test_a_flow_with_other_settings_is_an_experiment_of_all_stages(checkout: Path) -> None:
    with (checkout / ".dvcignore").open("a") as ignore:
        ignore.write(f"/{OTHER}/dvc.yaml\n")  # which has no results
    commit(checkout)
    run(checkout, "dvc", "repro")
    lock = (checkout / "dvc.lock").read_bytes()
    changes = '--overrides={"train.steps": 3}'
    said = run(checkout, "python", "-m", "pipelines.flows", "test", changes)
    assert "Stage 'tokenize' didn't change" in said
    assert "dvc exp apply test-train.steps=3" in said
    assert "something is not shown" not in said
    assert (checkout / "dvc.lock").read_bytes() == lock
    said = run(
        checkout, "python", "-m", "pipelines.flows", "test", '--overrides={"sample.tokens": 5}'
    )
    assert "Stage 'train' didn't change" in said
    assert "> exec python -m nanogpt.stages.sample" in said
    assert "test-train.steps=3" in run(checkout, "dvc", "exp", "list", "--name-only")
    run(checkout, "dvc", "exp", "apply", "test-train.steps=3")
    assert load(checkout / "params.yaml").train.steps == 3
    assert "train.steps" in run(checkout, "dvc", "params", "diff")
    assert "Running stage 'train'" not in run(checkout, "dvc", "repro"), "all of it is there"


@pytest.mark.parametrize("value", ["https://me:hush@a.b/c", ["gpt2", "https://a.b/c?sig=hush"]])
def test_an_address_with_a_password_is_refused_and_not_shown(value: Any) -> None:
    assert "hush" not in title(".", {"download.base": value})
    with pytest.raises(RecipeError, match=r"download\.base: an address"):
        refuse_secrets({"download.base": value})
    refuse_secrets({"download.corpus": "hf:a/b@main", "download.base": "https://a.b/@c"})
