"""A device is known by its name, and taken for no other."""

import warnings
from pathlib import Path

import pytest
import torch

from nanogpt.common.errors import UserError
from nanogpt.machine import devices
from nanogpt.machine.devices import cuda_fault, peak_flops
from nanogpt.machine.distributed import prepare
from tests.kit.recipes import quick


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100-PCIE-16GB", 112),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("Tesla T4", 65),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4080 SUPER", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA A10-24Q", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("GRID A100-10C 1g.10gb", None),
        ("NVIDIA TITAN V", None),
    ],
)
def test_the_peak_is_that_of_the_device(
    name: str, teraflops: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(torch.device("cuda")) == (teraflops and teraflops * 1e12)


OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU"
    " driver by downloading and installing a new version"
)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if there were a GPU, whose driver is too old for torch."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(devices, "DEVICES", tmp_path)

    def warn() -> bool:
        warnings.warn(f"CUDA initialization: {OLD} (Triggered internally)", stacklevel=1)
        return False

    def fail() -> None:
        raise RuntimeError(OLD)

    monkeypatch.setattr(torch.cuda, "is_available", warn)
    monkeypatch.setattr(torch.cuda, "init", fail)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


def test_an_old_driver_is_told(gpu: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(quick(machine__device="auto").machine).type == "cpu"
    said = capsys.readouterr().err
    assert "so this runs on its cpu: its driver is too old: it knows CUDA 11.4" in said
    assert "torch is built for 13.0" in said
    assert said.count("\n") == 1
    with pytest.raises(UserError, match="does not use this machine's GPU: its driver is too old"):
        prepare(quick(machine__device="cuda").machine)
    prepare(quick(machine__device="cpu").machine)  # as asked, so there is nothing to tell
    gpu.setenv("CUDA_VISIBLE_DEVICES", "")
    prepare(quick(machine__device="auto").machine)
    assert not capsys.readouterr().err


def test_a_torch_without_cuda_is_told_where_there_is_a_gpu(
    gpu: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu.setattr(torch.backends.cuda, "is_built", lambda: False)
    assert "is built without CUDA" in str(cuda_fault())
    (tmp_path / "nvidia0").unlink()
    assert cuda_fault() is None
