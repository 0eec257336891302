"""What rebuilds of a version came to, kept with it."""

from pathlib import Path

import pytest

from nanogpt.common.errors import UserError
from nanogpt.tracking.versions.reproduced import KEPT, about, keep
from tests.kit.trainings import everything, make_model


def test_verdicts_are_kept_with_the_version_the_newest_first(root: Path) -> None:
    everything(root, make_model(root / "model"))
    known = about("models:/nanogpt-plays@candidate")
    assert (known.model, known.val_bits_per_byte) == ("models:/nanogpt-plays/1", "2.0000")
    assert known.verdicts == ()
    for number in range(KEPT + 2):
        keep(known.model, f"identical: {number}")
    kept = about("models:/nanogpt-plays/1").verdicts
    assert kept == tuple(f"identical: {n}" for n in reversed(range(2, KEPT + 2)))


def test_an_unknown_version_is_said(root: Path) -> None:
    with pytest.raises(UserError, match="has no model x"):
        about("models:/x@y")
