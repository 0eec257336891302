"""Ctrl-C in a command that keeps nothing."""

import pytest

from nanogpt.commands import size
from tests.kit.recipes import ROOT, Run


def test_ctrl_c_is_told_in_a_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(path: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(size, "load", stop)
    assert run("size", ROOT) == (130, "size: stopped")
