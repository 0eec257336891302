"""Models of the Hugging Face hub: what is asked for, compared, and said when it does not come."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpt.common.errors import UserError
from nanogpt.formats.base import open_base
from nanogpt.sources.bases import download_base
from nanogpt.sources.fetch import fetch
from nanogpt.sources.hub import HubModel
from tests.kit.fake_hub import AT_COMMIT, SHARDED, SINGLE, FakeHub, commit
from tests.sources.test_bases import refused, shards


def test_model_of_the_hub_arrives_whole_and_named_by_its_commit(hub: FakeHub) -> None:
    manifest = download_base([f"hf:{SHARDED}@main"], Path("base"))
    assert manifest == open_base(Path("base"))
    assert (manifest.name, manifest.source) == (f"hf:{SHARDED}@main", AT_COMMIT)
    assert manifest.hub_id == SHARDED
    repository = hub.root / SHARDED
    expected = {path.name for path in repository.iterdir() if path.is_file()} - {"README.md"}
    assert {file.name for file in manifest.files} == expected
    assert len(shards(Path("base"))) > 1
    for file in manifest.files:
        assert Path("base", file.name).read_bytes() == (repository / file.name).read_bytes()
    assert not any("README" in line or "onnx" in line for line in hub.asked)


def test_model_in_the_cache_needs_no_network(hub: FakeHub) -> None:
    download_base([f"hf:{SHARDED}@main"], Path("first"))
    hub.asked.clear()
    download_base([AT_COMMIT], Path("second"))
    assert hub.asked == []
    names = sorted(path.name for path in Path("first").iterdir())
    assert names == sorted(path.name for path in Path("second").iterdir())


def test_damage_in_the_cache_is_seen(hub: FakeHub, tmp_path: Path) -> None:
    download_base([AT_COMMIT], Path("first"))
    config = next((tmp_path / "cache").rglob("snapshots/*/config.json"))
    text = config.read_text()
    config.write_text(text.replace("16", "32"))
    assert (
        f"config.json is not what the commit says; remove it with `hf cache rm model/{SHARDED}`"
        in refused(AT_COMMIT)
    )
    config.write_text(text[:100])
    assert f"config.json has 100 bytes of {len(text)}; remove it" in refused(AT_COMMIT)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("gated", "it is gated: accept its licence on its page, and log in with `hf auth login`"),
        ("private", "the hub has no such model (check the spelling), or it is private: log in"),
        (
            "token",
            "the hub does not accept your token: log in with `hf auth login`, or set HF_TOKEN",
        ),
        ("busy", "HfHubHTTPError: Server error '503 Service Unavailable'"),
    ],
)
def test_what_the_hub_refuses_is_passed_over(
    hub: FakeHub,
    fault: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush")
    hub.faults[SHARDED] = fault
    manifest = download_base([AT_COMMIT, f"hf:{SINGLE}@main"], Path("base"))
    assert manifest.name == f"hf:{SINGLE}@main"
    printed = capsys.readouterr().err
    assert f"{AT_COMMIT}: {said}" in printed
    assert "; trying the next source" in printed
    message = refused(AT_COMMIT)
    assert message.startswith("base model could not be fetched; tried, in this order:\n")
    assert said in message
    assert "hush" not in message + printed


def test_what_the_hub_does_not_have(hub: FakeHub) -> None:
    message = refused("hf:org/singel@main", f"hf:{SINGLE}@v2")
    assert message.splitlines()[1:] == [
        "  hf:org/singel@main: the hub has no such model (check the spelling)",
        f"  hf:{SINGLE}@v2: the model has no revision 'v2'",
    ]


def test_no_network_is_one_message(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://user:hush@127.0.0.1:{port}")
    for name in (f"hf:{SINGLE}@main", AT_COMMIT):
        message = refused(name)
        assert f"{name}: the Hugging Face hub cannot be reached (ConnectError: " in message
        assert "hush" not in message


def test_cut_off_download_names_file_and_sizes(hub: FakeHub) -> None:
    hub.faults["model.safetensors"] = "cut"
    size = (hub.root / SINGLE / "model.safetensors").stat().st_size
    message = refused(f"hf:{SINGLE}@main")
    assert f"should be of size {size} but has size {size // 2}" in message
    assert "model.safetensors" in message
    hub.faults["model.safetensors"] = "cut once"
    download_base([f"hf:{SINGLE}@main"], Path("base"))


def test_wrong_bytes_are_refused(hub: FakeHub) -> None:
    name = shards(hub.root / SHARDED)[1].name
    hub.faults[name] = "wrong"
    assert f"{AT_COMMIT}: {name} is not what the commit says" in refused(AT_COMMIT)


def test_weights_are_those_that_a_named_base_pins(hub: FakeHub) -> None:
    model = HubModel(SINGLE, commit(SINGLE), "0" * 64)
    with pytest.raises(UserError, match=r"model.safetensors has the SHA-256 \w+, expected 0{64}"):
        fetch("base model", [model], Path("base"))


def test_as_a_user_with_a_hub_of_their_own(hub: FakeHub, tmp_path: Path) -> None:
    code = (
        "import sys; from nanogpt.sources.bases import *; download_base(sys.argv[1:], Path('base'))"
    )
    command = [sys.executable, "-c", code, "gpt2", AT_COMMIT]
    places = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    child = subprocess.run(
        command, env=os.environ | places, cwd=tmp_path, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    assert "gpt2: the hub has no such model (check the spelling); trying the next" in child.stderr
    assert open_base(tmp_path / "base").source == AT_COMMIT
    assert (tmp_path / "home" / "hub").is_dir()
