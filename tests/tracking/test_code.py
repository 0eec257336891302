"""Which code ran: the commit, and a diff that makes it these very files."""

import os
import subprocess
from pathlib import Path

import pytest

from nanogpt.tracking import code
from tests.kit.checkouts import git
from tests.kit.recipes import contents

MINE = "pipelines/mine"
ADDRESS = "https://me:opensesame@example.org/text.txt"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit; the current folder."""
    folder = tmp_path / "my checkout"
    for name in ("nanogpt/__init__.py", "nanogpt/model.py", f"{MINE}/params.yaml", "Makefile"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("one\n")
    for name in (f"{MINE}/dvc.lock", ".dvcignore", "data/README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("one\n")
    monkeypatch.chdir(folder)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def look() -> code.Seen:
    return code.look(Path(MINE))


def files(folder: Path) -> dict[str, bytes]:
    return {name: text for name, text in contents(folder).items() if not name.startswith(".git/")}


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    (checkout / MINE / "dvc.lock").write_text("two\n")  # as DVC does before it comes to `train`
    (checkout / ".dvcignore").write_text("two\n")
    (checkout / "data/README.md").write_text("two\n")
    (checkout / "notes.txt").touch()
    seen = look()
    assert seen == code.Seen(git(checkout, "rev-parse", "HEAD").strip(), False)
    assert seen.tags() == {"mlflow.source.git.commit": seen.commit, "git.dirty": "false"}


def test_the_diff_applies_to_the_commit(checkout: Path, tmp_path: Path) -> None:
    (checkout / "nanogpt/model.py").write_text("two\r\n\tno end of line")
    (checkout / "nanogpt/a picture é.bin").write_bytes(bytes(range(256)))
    (checkout / "nanogpt/run.sh").write_text("#!/bin/sh\n")
    (checkout / "nanogpt/run.sh").chmod(0o755)
    (checkout / MINE / "params.yaml").write_text("two\n")
    (checkout / "Makefile").unlink()
    # a person's own configuration and index say other things
    for key, value in {
        "diff.noprefix": "true",
        "diff.external": "false",
        "diff.renames": "copies",
        "color.ui": "always",
        "diff.context": "0",
        "core.quotePath": "true",
    }.items():
        git(checkout, "config", key, value)
    git(checkout, "update-index", "--assume-unchanged", "nanogpt/model.py")
    git(checkout, "add", "nanogpt/run.sh")
    before = git(checkout, "status", "--porcelain"), contents(checkout / ".git")
    seen = look()
    assert (git(checkout, "status", "--porcelain"), contents(checkout / ".git")) == before
    assert seen.dirty
    assert seen.diff
    git(checkout, "worktree", "add", "--quiet", "--detach", str(tmp_path / "again"), "HEAD")
    (tmp_path / "diff").write_bytes(seen.diff)
    git(tmp_path / "again", "apply", "--whitespace=nowarn", str(tmp_path / "diff"))
    again = files(tmp_path / "again")
    del again[".git"]
    assert again == files(checkout)
    assert os.access(tmp_path / "again/nanogpt/run.sh", os.X_OK)


@pytest.mark.parametrize(
    ("name", "dirty"),
    [
        ("nanogpt/new.py", True),
        (f"{MINE}/prompt.txt", True),
        ("pipelines/other/params.yaml", True),
        ("pipelines/other/dvc.lock", False),
        ("notes.txt", False),
    ],
)
def test_code_that_was_never_added_is_in_the_diff(checkout: Path, name: str, dirty: bool) -> None:
    (checkout / name).parent.mkdir(exist_ok=True)
    (checkout / name).write_text("new\n")
    seen = look()
    assert (seen.dirty, bool(seen.diff and name.encode() in seen.diff)) == (dirty, dirty)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_checkout_of_another_user_is_read(checkout: Path) -> None:
    (checkout / "nanogpt/new.py").write_text("new\n")
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, 12345, 12345)
    assert look().diff


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"corpus: {ADDRESS}\n", "password or a token, in nanogpt/new.py"),
        ("mine = 'hf_plantedplanted'\n", "password or a token, in nanogpt/new.py"),
        (os.urandom(6_000_000).hex(), "more than 5,000,000"),
        ("x" * 60_000_000, "more than 5,000,000"),
    ],
    ids=["address", "variable", "large", "far too large"],
)
def test_a_diff_that_is_not_kept_is_said(
    checkout: Path,
    text: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_plantedplanted")
    (checkout / "nanogpt/new.py").write_text(text)
    seen = look()
    assert (seen.dirty, seen.diff) == (True, None)
    assert why in str(seen.missing)
    assert [record.getMessage() for record in caplog.records] == [
        f"the record of this training is without its changed code: {seen.missing}"
    ]


@pytest.mark.parametrize(
    "around", ["nothing", "no program", "a repository without a commit", "a stranger's"]
)
def test_code_in_no_commit_is_said_and_gets_no_others(
    root: Path, around: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent.parent))
    person = ["git", "-c", "user.name=n", "-c", "user.email=e@localhost"]
    if around != "nothing":
        subprocess.run([*person, "init", "-q"], cwd=root.parent, check=True)
    if around == "a stranger's":
        words = ["commit", "-q", "--allow-empty", "-m", "of another project"]
        subprocess.run([*person, *words], cwd=root.parent, check=True)
    if around == "no program":
        monkeypatch.setenv("PATH", "")
    seen = code.look(Path())
    assert seen.commit is None
    assert seen.tags() == {"git.missing": seen.missing}
    (record,) = caplog.records
    assert f"names no commit with its code: {seen.missing}" in record.getMessage()
