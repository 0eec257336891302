"""The hub's copy of a model: what would be uploaded, what was, and why not."""

import socket
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.kit.fake_hub import FakeHub
from tests.kit.recipes import Run, contents
from tests.kit.trainings import CARD, make_model


@pytest.fixture
def public(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model directory with a card, and a token for the hub."""
    monkeypatch.setenv("HF_TOKEN", "hush")
    folder = make_model(tmp_path / "model")
    (folder / "README.md").write_text(CARD)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    return folder


def test_a_dry_run_says_what_would_be_uploaded(public: Path, hub: FakeHub, run: Run) -> None:
    code, said = run("push", public, "--repo", "will/plays", "--dry-run")
    assert code == 0
    size = (public / "model.safetensors").stat().st_size
    assert said.startswith("will/plays, private if it is new:\n")
    assert f"\n{size:>15,}  model.safetensors\n" in said
    assert "\n              2  adapter/adapter_config.json\n" in said
    assert "\n---\nlibrary_name: transformers\nlicense: mit\n---\n" in said
    assert said.endswith("nothing was uploaded: this was a dry run")
    assert not hub.asked


@pytest.mark.parametrize("access", [[], ["--public"]])
def test_the_hub_gets_the_model_directory(
    access: list[str], public: Path, hub: FakeHub, run: Run
) -> None:
    code, said = run("push", public, "--repo", "will/plays", *access)
    assert code == 0, said
    assert said.endswith(f"\n{hub.address}/will/plays")
    assert contents(hub.root / "will" / "plays") == contents(public)
    assert hub.created == {"will/plays": "public" if access else "private"}


def test_what_is_its_owners_stays(public: Path, hub: FakeHub, run: Run) -> None:
    shown = contents(public)
    for name in (".env", ".git/config", "adapter/.cache/x", "optimizer.pt", "adapter/training.bin"):
        (public / name).parent.mkdir(exist_ok=True, parents=True)
        (public / name).write_text("hush")
    (public / "a [1]*.md").write_text("more on it")
    code, said = run("push", public, "--repo", "will/plays")
    assert code == 0, said
    assert "hush" not in said
    assert ".env" not in said
    assert contents(hub.root / "will" / "plays") == shown | {"a [1]*.md": b"more on it"}


def test_a_public_repository_is_not_pushed_to_by_accident(
    public: Path, hub: FakeHub, run: Run
) -> None:
    hub.created["will/plays"] = "public"
    code, said = run("push", public, "--repo", "will/plays")
    assert code == 2
    assert said.startswith("push: will/plays is there, and for everyone to read; push with")
    assert not [request for request in hub.asked if "commit" in request]
    assert run("push", public, "--repo", "will/plays", "--public")[0] == 0
    hub.created["will/plays"] = "private"
    assert run("push", public, "--repo", "will/plays")[0] == 0


def test_what_cannot_be_pushed_is_one_message(
    public: Path, hub: FakeHub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(repo: str = "will/plays") -> str:
        code, said = run("push", public, "--repo", repo)
        assert code == 2
        assert "hush" not in said
        return said.removeprefix("push: ")

    assert refused("plays") == "--repo 'plays' is not of the form user/name"
    hub.faults["will/plays"] = "token"
    assert refused() == (
        "the hub does not let you write to will/plays: log in with `hf auth login`, or set"
        " HF_TOKEN with a token that may write"
    )
    (public / "README.md").write_text("---\n- a list\n---\n")
    assert refused().startswith(f"the model card, {public}/README.md, is of no use: repo card")
    (public / "README.md").unlink()
    assert refused().startswith(f"the model card, {public}/README.md, is of no use: Cannot load")
    (public / "README.md").write_text(CARD)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/none")
    assert refused() == (
        "nobody is logged in to the Hugging Face hub: log in with `hf auth login`, or set HF_TOKEN"
    )
    (public / "model.safetensors").unlink()
    assert "has no weights that can be read" in refused()
    assert not [request for request in hub.asked if "commit" in request]


def test_a_hub_that_does_not_answer_is_one_message(
    public: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    code, said = run("push", public, "--repo", "will/plays")
    assert code == 75  # it may go better at another attempt
    assert said.startswith("push: will/plays was not uploaded: ConnectError")
    assert len(said.splitlines()) == 1
