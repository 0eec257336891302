"""Which process a run is of, and whether it is known to have ended."""

import sys

import psutil
import pytest

from nanogpt.tracking import process

MACHINE, BOOT, OUTSIDE, INSIDE = "m", "b", process.OUTSIDE, "pid:[4026532000]"


def place(machine: str, boot: str, namespace: str) -> str:
    return f"{machine} {boot} {namespace}"


@pytest.mark.parametrize(
    ("theirs", "ours", "dead"),
    [
        (place(MACHINE, BOOT, OUTSIDE), place(MACHINE, BOOT, OUTSIDE), True),
        (place(MACHINE, BOOT, INSIDE), place(MACHINE, BOOT, INSIDE), True),
        (place(MACHINE, "before", OUTSIDE), place(MACHINE, BOOT, OUTSIDE), True),
        (place(MACHINE, BOOT, INSIDE), place(MACHINE, BOOT, OUTSIDE), False),
        (place(MACHINE, BOOT, OUTSIDE), place(MACHINE, BOOT, INSIDE), False),
        (place(MACHINE, "before", INSIDE), place(MACHINE, BOOT, INSIDE), False),
        (place("another", BOOT, OUTSIDE), place(MACHINE, BOOT, OUTSIDE), False),
        ("", place(MACHINE, BOOT, OUTSIDE), False),  # a run of an older version
        ("mac", "mac", True),
        ("mac", "another", False),
    ],
)
def test_only_what_can_be_known_from_here_is_dead(
    theirs: str, ours: str, dead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_processes", lambda: ours)
    nobody = (str(2**22 + 1), theirs, "1")
    tags = dict(zip(process.PROCESS, nobody, strict=True))
    assert process.is_dead(tags) is dead


def test_a_process_is_told_from_another_with_its_id() -> None:
    tags = process.describe()
    assert not process.is_dead(tags)
    assert process.is_dead(tags | {"nanogpt.process_started": "1"})
    assert process.is_dead(tags | {"nanogpt.pid": "1"})


def test_a_clock_that_is_set_kills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tags = process.describe()
    with monkeypatch.context() as patch:
        # on Linux psutil counts from the start of the machine, whose time moves with the clock
        if sys.platform == "linux":
            patch.setattr(psutil.Process, "create_time", lambda _: 0.0)
        assert not process.is_dead(tags)
