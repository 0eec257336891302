"""A model to export, and a folder that stands for the root."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.trainings import CARD, make_model


@pytest.fixture
def exports_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Have exports without a place of their own go below a folder."""
    # by its name, nanogpt.commands.export, it is the command until the module is imported
    module = importlib.import_module("nanogpt.commands.export")
    return lambda root: monkeypatch.setattr(module, "CODE", root)


@pytest.fixture
def model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exports_to: Callable[[Path], None]
) -> Path:
    """A model directory, plays/model, below the current folder, which stands for the root."""
    monkeypatch.chdir(tmp_path)
    exports_to(tmp_path)
    (tmp_path / "plays").mkdir()
    folder = make_model(Path("plays/model"))
    (folder / "README.md").write_text(CARD)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"small")
    return folder
