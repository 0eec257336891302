"""What the model does on a GPU alone, looked at on a CPU."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from nanogpt import model as model_file
from nanogpt.model import Linear
from tests.test_model import POSITIONS, SHAPES, random_model


class OnGpu(torch.Tensor):
    """As if it were there."""

    is_cuda = True


@pytest.mark.parametrize(
    ("compute", "apart", "shared"),
    [(torch.bfloat16, False, True), (torch.bfloat16, True, False), (torch.float32, False, False)],
)
def test_on_a_gpu_heads_share_keys_where_a_fused_attention_does(
    compute: torch.dtype, apart: bool, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = random_model(SHAPES["llama, grouped heads, tied"]), []
    for module in model.modules():
        if isinstance(module, Linear):
            module.compute = compute
    attend = functional.scaled_dot_product_attention

    def spy(*tensors: Any, enable_gqa: bool) -> torch.Tensor:
        asked.append(enable_gqa)
        return attend(*tensors, enable_gqa=enable_gqa)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    ids, positions = torch.randint(85, (2, 32)), POSITIONS if apart else None
    on_cpu = model(ids, positions=positions)
    asked.clear()
    found = model(ids.as_subclass(OnGpu), positions=positions).as_subclass(torch.Tensor)
    assert {*asked} == {shared}
    close = 1e-5 if compute == torch.float32 else 0.05
    torch.testing.assert_close(found, on_cpu, rtol=0, atol=close * on_cpu.abs().max().item())


@pytest.mark.parametrize(
    ("tokens", "width", "flex"), [(128, 16, True), (64, 16, False), (128, 8, False)]
)
def test_flex_attention_is_asked_for_what_its_kernels_do(
    tokens: int, width: int, flex: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, asked = model_file.document_mask, []

    def dense(positions: torch.Tensor, dtype: torch.dtype, flex: bool) -> Any:
        asked.append(flex)
        return make(positions, dtype, flex=False)

    monkeypatch.setattr(model_file, "document_mask", dense)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    model = random_model(SHAPES["llama"] | {"context": tokens, "head_dim": width})
    ids = torch.zeros(1, tokens, dtype=torch.long).as_subclass(OnGpu)
    model.read(ids, positions=torch.arange(tokens)[None])
    assert asked == [flex]
