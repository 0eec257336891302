"""The laws that any causal language model obeys, and what must not change what it computes."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask

from nanogpt import model as model_file
from nanogpt.architecture import GPTConfig, RopeScaling
from nanogpt.common.errors import UserError
from nanogpt.formats.weights import load_model, save_model
from nanogpt.model import GPT, Cache, HeadLoss, Linear, rms_norm

SHAPES = {
    "gpt2": {"architecture": "gpt2", "tied": True},
    "gpt2 with biases": {"architecture": "gpt2", "tied": True, "bias": True},
    "gpt2, tanh, untied": {
        "architecture": "gpt2",
        "tied": False,
        "bias": True,
        "activation": "gelu_new",
    },
    "llama": {"architecture": "llama", "tied": False},
    "llama, grouped heads, tied": {"architecture": "llama", "tied": True, "n_kv_head": 2},
    "llama 3's rotary positions": {
        "architecture": "llama",
        "tied": True,
        "rope_scaling": RopeScaling(8.0, 1.0, 4.0, 16),
    },
    "qwen3": {"architecture": "qwen3", "tied": True},
    "qwen3, one kv head, wide heads": {
        "architecture": "qwen3",
        "tied": False,
        "n_kv_head": 1,
        "head_dim": 24,
    },
    "qwen2, grouped heads": {"architecture": "qwen2", "tied": True, "n_kv_head": 2},
    "smollm3": {"architecture": "smollm3", "tied": True, "n_kv_head": 2, "no_rope": (1,)},
    "olmo2, grouped heads": {"architecture": "olmo2", "tied": False, "n_kv_head": 2},
}


def random_model(shape: dict[str, Any]) -> GPT:
    defaults = {"n_layer": 3, "n_head": 4, "n_kv_head": 4, "n_embd": 64, "head_dim": 16}
    config = GPTConfig(**{"vocab_size": 85, "context": 32, "n_inner": 160, **defaults, **shape})
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # zeros and ones would hide a wrong name
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def model(request: pytest.FixtureRequest) -> GPT:
    return random_model(request.param)


def test_save_and_load_is_the_same_model_and_the_same_bytes(model: GPT, tmp_path: Path) -> None:
    save_model(tmp_path, model.config, dict(model.named_parameters()))
    again = load_model(tmp_path)
    assert again.config == model.config
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
    first = (tmp_path / "model.safetensors").read_bytes()
    save_model(tmp_path, again.config, dict(again.named_parameters()))
    assert (tmp_path / "model.safetensors").read_bytes() == first


def test_a_later_token_never_moves_an_earlier_logit(model: GPT) -> None:
    ids = torch.randint(85, (1, 32))
    for position in (1, 17, 31):
        changed = ids.clone()
        changed[0, position] = (changed[0, position] + 1) % 85
        before, after = model(ids), model(changed)
        assert torch.equal(before[:, :position], after[:, :position])
        assert not torch.equal(before[:, position:], after[:, position:])


# three documents in the first window, two and padding in the second
POSITIONS = torch.tensor([[*range(9), *range(13), *range(10)], [*range(20), *range(8), *[0] * 4]])


def test_a_document_does_not_know_what_is_before_it_in_a_window(model: GPT) -> None:
    ids, targets = torch.randint(85, (2, 2, 32))
    changed = ids.clone()
    changed[:, :9] = (changed[:, :9] + 1) % 85  # of the first documents alone
    last = torch.zeros(2, 32, dtype=torch.bool)
    last[0, 9:] = last[1, 20:] = True
    found = []
    for some in (ids, changed):
        logits = model(some, positions=POSITIONS)
        losses = model(some, targets, positions=POSITIONS)
        found.append((logits[last], losses[last], logits[~last]))
        # and nothing of their gradient comes to an embedding of the first ones
        embedded = model.embedding(some).detach().requires_grad_()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model.embedding, "forward", lambda _, embedded=embedded: embedded)
            model(some, targets, positions=POSITIONS)[last].sum().backward()
        assert not embedded.grad[~last].any()
        assert embedded.grad[0, 9:].any(dim=-1).all()
    (logits, losses, others), (then, losses_then, others_then) = found
    assert torch.equal(logits, then)
    assert torch.equal(losses, losses_then)
    assert not torch.equal(others, others_then)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_documents_in_one_window_are_as_they_would_be_alone(
    model: GPT, compute: torch.dtype
) -> None:
    twin = GPT(model.config, compute).eval()
    twin.load_state_dict(model.state_dict())
    ids = torch.randint(85, (2, 32))
    together = twin(ids, positions=POSITIONS)
    near = 1e-5 if compute == torch.float32 else 0.1
    for row, first, stop in ((0, 0, 9), (0, 9, 22), (0, 22, 32), (1, 0, 20), (1, 20, 28)):
        alone = twin(ids[row : row + 1, first:stop])[0]
        torch.testing.assert_close(together[row, first:stop], alone, atol=near, rtol=near)


def test_one_document_in_a_window_is_what_it_always_was(model: GPT) -> None:
    ids = torch.randint(85, (2, 32))
    positions = torch.arange(32).expand(2, 32)
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(model(ids, positions=positions), model(ids), **close)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("shape", ["gpt2", "qwen3, one kv head, wide heads"])
def test_flex_attention_sees_what_the_mask_sees(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = random_model(SHAPES[shape]), torch.randint(85, (2, 32))
    make, made = model_file.document_mask, []

    def flex(positions: torch.Tensor, dtype: torch.dtype, flex: bool) -> Any:
        made.append(make(positions, dtype, flex=True))
        return made[-1]

    with torch.no_grad():  # on a CPU it has no backward pass
        dense = model(ids, positions=POSITIONS)
        monkeypatch.setattr(model_file, "document_mask", flex)
        found = model(ids, positions=POSITIONS)
    assert isinstance(made[0], BlockMask)
    torch.testing.assert_close(found, dense, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_the_layout_for_inference_changes_no_result(model: GPT, compute: torch.dtype) -> None:
    for module in model.modules():
        if isinstance(module, Linear):
            module.compute = compute
    ids = torch.randint(85, (2, 32))
    before = model(ids)
    embedding = model.embedding.weight.clone()
    model.for_inference()
    # the same products, added up in another order
    scale = before.abs().max()
    torch.testing.assert_close(
        model(ids) / scale, before / scale, rtol=0, atol=1e-5 if compute.itemsize == 4 else 0.02
    )
    assert torch.equal(model.embedding.weight, embedding)
    assert model.blocks[0].mlp.up.weight.dtype == compute


@pytest.mark.parametrize("cuts", [[1] * 32, [5, 1, 1, 20, 5]])
def test_the_cache_changes_nothing(model: GPT, cuts: list[int]) -> None:
    ids = torch.randint(85, (2, 32))
    cache = Cache(model.config, 2, 32, torch.device("cpu"))
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in ids.split(cuts, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), atol=1e-5, rtol=1e-5)


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_rows_of_a_cache_know_nothing_of_each_other(data: st.DataObject) -> None:
    """Rows of unequal length, read in pieces, copied and read on beside others."""
    pick = data.draw
    K = pick(st.sampled_from([1, 2, 4]))
    shape = pick(st.sampled_from([*SHAPES.values()])) | {"n_kv_head": K, "n_layer": 2}
    model, rows = random_model(shape), pick(st.integers(2, 5))
    if model.config.architecture == "gpt2":
        model = random_model(shape | {"n_kv_head": 4})
    texts = torch.randint(85, (rows, 32), generator=torch.Generator().manual_seed(K))
    read = [pick(st.integers(1, 20)) for _ in range(rows)]
    cache = Cache(model.config, rows, 20, torch.device("cpu"))
    with torch.no_grad():
        for row, tokens in enumerate(read):
            for part in texts[row : row + 1, :tokens].split(pick(st.integers(1, 20)), dim=1):
                model(part, cache=cache[row : row + 1])
        source, target = pick(st.permutations(range(rows)))[:2]
        read[target] = pick(st.integers(1, read[source]))
        texts[target] = texts[source]
        cache.copy(source, target, read[target])
        cache.grow(rows + 1, 32)
        for more in pick(st.lists(st.integers(1, 3), min_size=1, max_size=4)):
            some = slice(*sorted(pick(st.tuples(st.integers(0, rows - 1), st.integers(1, rows)))))
            at = [*range(rows)][some]
            if not at:
                continue
            ids = torch.stack([texts[row, read[row] : read[row] + more] for row in at])
            logits = model(ids, cache=cache[some])
            for row, found in zip(at, logits, strict=True):
                read[row] += more
                whole = model(texts[row : row + 1, : read[row]])[0]
                torch.testing.assert_close(found, whole[-more:], atol=1e-4, rtol=1e-4)
    assert cache.lengths.tolist() == [*read, 0]


def test_activation_checkpointing_changes_no_gradient(model: GPT) -> None:
    ids, targets = torch.randint(85, (2, 2, 32))
    twin = GPT(dataclasses.replace(model.config, dropout=0.2)).train()
    gradients = []
    for twin.activation_checkpointing in (False, True):
        twin.load_state_dict(model.state_dict())
        torch.manual_seed(1)
        twin(ids, targets).mean().backward()
        gradients.append([p.grad.clone() for p in twin.parameters()])
        twin.zero_grad()
    assert all(map(torch.equal, *gradients))


def test_a_shorter_context_is_the_same_model(model: GPT, tmp_path: Path) -> None:
    save_model(tmp_path, model.config, dict(model.named_parameters()))
    cropped = load_model(tmp_path, context=20, dropout=0.5)
    # learned positions are cut off, rotary ones stay
    kept = 20 if model.config.architecture == "gpt2" else 32
    assert cropped.config == dataclasses.replace(model.config, context=kept, dropout=0.5)
    ids = torch.randint(85, (2, 20))
    assert torch.equal(cropped(ids), model(ids))
    (tmp_path / "again").mkdir()
    save_model(tmp_path / "again", cropped.config, dict(cropped.named_parameters()))
    assert torch.equal(load_model(tmp_path / "again")(ids), model(ids))


def test_a_longer_context_is_refused(tmp_path: Path) -> None:
    model = random_model(SHAPES["gpt2"])
    save_model(tmp_path, model.config, dict(model.named_parameters()))
    with pytest.raises(UserError, match=f"33 is more than the 32 tokens .* {tmp_path}"):
        load_model(tmp_path, context=33)


def test_loss_is_the_cross_entropy_of_each_token(model: GPT) -> None:
    ids, targets = torch.randint(85, (2, 2, 7))
    expected = -model(ids).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(model(ids, targets), expected)


@pytest.mark.parametrize("shape", [(8,), (3, 1, 8)])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_norm_has_the_gradient_of_its_formula(shape: tuple[int, ...], frozen: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=not frozen)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-6), (x, weight))
    with torch.no_grad():
        same = rms_norm(x, weight, 1e-6)  # without gradients it is torch's own
    torch.testing.assert_close(rms_norm(x, weight, 1e-6), same)


@given(
    tokens=st.integers(1, 300),
    entries=st.sampled_from((2, 65, 2048, 5000)),
    size=st.sampled_from((0.0, 1.0, 40.0)),
    trained=st.sampled_from(((True, True), (True, False), (False, True))),
)
@settings(deadline=None, max_examples=25)
def test_losses_by_pieces_are_the_cross_entropy(
    tokens: int, entries: int, size: float, trained: tuple[bool, bool]
) -> None:
    torch.manual_seed(tokens)
    x, weight = torch.randn(tokens, 24), size * torch.randn(entries, 24)
    for tensor, wanted in zip((x, weight), trained, strict=True):
        tensor.requires_grad_(wanted)
    targets, grad = torch.randint(entries, (tokens,)), torch.rand(tokens)
    leaves = [tensor for tensor in (x, weight) if tensor.requires_grad]
    plain = F.cross_entropy(F.linear(x, weight), targets, reduction="none")
    losses: torch.Tensor = HeadLoss.apply(x, weight, targets)
    if size > 1 and entries > 2 and tokens > 9:
        assert plain.max() > 104, "a share that float32 has no number for"
    torch.testing.assert_close(losses, plain, rtol=1e-5, atol=1e-5)
    found, expected = (torch.autograd.grad(each, leaves, grad) for each in (losses, plain))
    for ours, its in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, its, rtol=1e-4, atol=1e-5 * max(1.0, size))


def test_losses_by_pieces_in_bfloat16_stay_near() -> None:
    torch.manual_seed(0)
    x, weight, targets = torch.randn(700, 64), torch.randn(900, 64) / 8, torch.randint(900, (700,))
    exact = x.requires_grad_(), weight.requires_grad_()
    plain = F.cross_entropy(F.linear(*exact), targets, reduction="none")
    half = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    losses: torch.Tensor = HeadLoss.apply(*half, targets)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, plain, rtol=0, atol=0.05)
    found, expected = (
        torch.autograd.grad(each.mean(), leaves)
        for each, leaves in ((losses, half), (plain, exact))
    )
    for ours, its in zip(found, expected, strict=True):
        assert (ours.float() - its).norm() < 0.01 * its.norm()


def test_training_and_evaluation_have_the_same_losses(model: GPT) -> None:
    torch.manual_seed(1)
    ids, targets = torch.randint(85, (2, 3, 32))
    with torch.no_grad():
        evaluated = model(ids, targets)
    torch.testing.assert_close(model(ids, targets), evaluated, rtol=1e-5, atol=1e-5)


def test_compiled_it_keeps_no_logits_in_float32() -> None:
    """Of a large vocabulary they are most of a step's memory: those in bfloat16 are enough."""
    model = GPT(random_model(SHAPES["qwen3"]).config, torch.bfloat16)
    ids, targets = torch.randint(85, (2, 3, 29))
    kept: list[tuple[torch.dtype, int]] = []

    def forward(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        (found,) = (node.args[0] for node in graph.graph.nodes if node.op == "output")
        values = [node.meta["val"] for node in found if isinstance(node, torch.fx.Node)]
        kept.extend((v.dtype, v.numel()) for v in values if isinstance(v, torch.Tensor))
        return make_boxed_func(graph.forward)

    backend = aot_autograd(
        fw_compiler=forward,
        bw_compiler=lambda graph, _: make_boxed_func(graph.forward),
        decompositions=select_decomp_table(),  # as inductor takes a graph apart and cuts it
        partition_fn=min_cut_rematerialization_partition,
    )
    found = torch.compile(model, backend=backend, fullgraph=True)(ids, targets)
    torch.testing.assert_close(found, model(ids, targets), atol=0.05, rtol=0.02)
    found.mean().backward()
    assert [dtype for dtype, numbers in kept if numbers == 3 * 29 * 85] == [torch.bfloat16]


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3"])
def test_a_new_model_knows_nothing(architecture: str) -> None:
    shape = random_model({"architecture": architecture, "tied": architecture == "gpt2"}).config
    ids, targets = torch.randint(85, (2, 8, 32))
    loss = GPT(shape)(ids, targets).mean().item()
    assert loss == pytest.approx(torch.tensor(85.0).log().item(), abs=0.1)


def test_bfloat16_products_stay_near(model: GPT) -> None:
    half = GPT(model.config, torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    ids, targets = torch.randint(85, (2, 8, 32))
    exact, near = model(ids, targets).mean(), half(ids, targets).mean()
    assert near.dtype == torch.float32
    assert near.item() == pytest.approx(exact.item(), rel=0.02)
