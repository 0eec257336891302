"""How many windows a pass takes on a GPU: as many as gain and fit, and the same each time."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.architecture import GPTConfig
from nanogpt.machine.distributed import World, join
from nanogpt.settings import Settings
from nanogpt.sizing import memory, passes
from nanogpt.trainer import pass_count
from tests.kit.measured import SHAPE, settings_of

GIB = 2**30


def training(**changes: object) -> tuple[GPTConfig, Settings]:
    config = GPTConfig(**(SHAPE | {"n_layer": 2, "context": 1024}))  # type: ignore[arg-type]
    return config, settings_of(config, **({"machine__micro_batch": "auto"} | changes))


def device(patch: pytest.MonkeyPatch, settings: Settings, whole: int, free: int) -> World:
    """As if there were a GPU of so many bytes, of which so many are free."""
    told = lambda _: SimpleNamespace(total_memory=whole)  # noqa: E731
    patch.setattr(torch.cuda, "get_device_properties", told)
    patch.setattr(passes, "available", lambda _: free)
    on_cpu, count = join(settings.machine), memory.estimate
    # without CUDA in torch, fake tensors of it cannot be drawn
    patch.setattr(passes, "estimate", lambda config, cut, _: count(config, cut, on_cpu))
    return replace(on_cpu, device=torch.device("cuda", 0))


@pytest.mark.parametrize(("batch", "windows"), [(480, 32), (64, 32), (4, 4), (37, 19)])
def test_it_is_as_large_as_gains_where_memory_is_plenty(
    monkeypatch: pytest.MonkeyPatch, batch: int, windows: int
) -> None:
    config, settings = training(train__batch_size=batch)
    world = device(monkeypatch, settings, 800 * GIB, 799 * GIB)
    assert passes.fit(config, settings, world).machine.micro_batch == windows


def test_it_fits_in_what_memory_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, settings = training(train__batch_size=96)
    found = []
    for whole in (40 * GIB, 5 * GIB, 2 * GIB):
        with monkeypatch.context() as patch:
            world = device(patch, settings, whole, whole)
            cut = passes.fit(config, settings, world)
            found.append(int(cut.machine.micro_batch))
            assert passes.estimate(config, cut, world) <= passes.ROOM * whole
            assert 96 % pass_count(cut, config.vocab_size, world) == 0
    assert 32 == found[0] > found[1] > found[2] > 1
    assert not capsys.readouterr().err


def test_only_what_others_use_makes_it_smaller_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, settings = training(train__batch_size=96)
    found = {}
    for free in (5.0, 4.9, 2.0):
        with monkeypatch.context() as patch:
            world = device(patch, settings, 5 * GIB, int(free * GIB))
            found[free] = int(passes.fit(config, settings, world).machine.micro_batch)
        said = capsys.readouterr().err
        assert said.startswith("train: others use this GPU's memory") == (free == 2)
    assert found[5.0] == found[4.9] > found[2.0] >= 1


@pytest.mark.parametrize("micro_batch", ["auto", 3])
def test_what_is_asked_for_and_what_a_cpu_does_stay(micro_batch: str | int) -> None:
    config, settings = training(machine__micro_batch=micro_batch)
    world = join(settings.machine)
    if micro_batch != "auto":
        world = replace(world, device=torch.device("cuda", 0))
    assert passes.fit(config, settings, world) is settings


@given(st.integers(1, 600), st.integers(1, 600))
def test_passes_are_equal_if_that_is_not_many_more(share: int, windows: int) -> None:
    least = math.ceil(share / windows)
    found = passes.equal(share, least)
    divisors = [n for n in range(least, 2 * least) if share % n == 0]
    assert found == (divisors[0] if divisors else least)
