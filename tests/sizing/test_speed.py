"""How long a step takes, by real ones: nothing else is waited for."""

from typing import Any

import pytest

from nanogpt import trainer
from nanogpt.machine.distributed import join
from nanogpt.settings import FromScratch
from nanogpt.sizing.count import config_of
from nanogpt.sizing.speed import TIMED, measure
from tests.kit.recipes import quick


def test_no_validation_is_made_whose_time_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it would be compiled by itself, for half a minute."""

    def scored(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(trainer, "total_loss", scored)
    settings = quick()
    assert isinstance(settings, FromScratch)
    found = measure(config_of(settings, 128), settings, join(settings.machine))
    assert found.steps == TIMED
    assert found.tokens_per_second > 0
