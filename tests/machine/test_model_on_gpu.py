"""What the model does on a GPU alone, looked at on a CPU."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from nanogpt import model as model_file
from nanogpt.model import Cache, Linear
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


@pytest.mark.parametrize("shape", ["gpt2", "llama, grouped heads, tied"])
def test_what_was_read_is_kept_in_the_type_of_the_products(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 it took twice the memory, and attention multiplied in float32."""
    model, asked = random_model(SHAPES[shape]), set()
    for module in model.modules():
        if isinstance(module, Linear):
            module.compute = torch.bfloat16
    attend = functional.scaled_dot_product_attention

    def spy(q: Any, k: Any, v: Any, mask: Any, *rest: Any, **more: Any) -> torch.Tensor:
        asked.update(t.dtype for t in (q, k, v, mask) if t is not None)
        return attend(q, k, v, mask, *rest, **more)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    with FakeTensorMode():
        there = Cache(model.config, 2, 32, torch.device("cuda"), torch.bfloat16)
    cache = Cache(model.config, 2, 32, torch.device("cpu"))
    assert (there.store.dtype, cache.store.dtype) == (torch.bfloat16, torch.float32)
    cache.store = cache.store.to(there.store.dtype)
    ids = torch.randint(85, (2, 32))
    with torch.no_grad():
        whole = model(ids)
        asked.clear()
        parts = [
            model(part.as_subclass(OnGpu), cache=cache).as_subclass(torch.Tensor)
            for part in ids.split([20] + 12 * [1], dim=1)
        ]
    assert asked == {torch.bfloat16}
    atol = 0.05 * whole.abs().max().item()
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=atol)
