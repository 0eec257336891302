"""The laws that any causal language model obeys, and what must not change what it computes."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpt import generation
from nanogpt.architecture import GPTConfig, RopeScaling
from nanogpt.common.errors import UserError
from nanogpt.formats.weights import load_model, save_model
from nanogpt.generation import continue_ids
from nanogpt.model import GPT, Cache

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
        before, after = model(ids)[0], model(changed)[0]
        assert torch.equal(before[:, :position], after[:, :position])
        assert not torch.equal(before[:, position:], after[:, position:])


@pytest.mark.parametrize("cuts", [[1] * 32, [5, 1, 1, 20, 5]])
def test_the_cache_changes_nothing(model: GPT, cuts: list[int]) -> None:
    ids = torch.randint(85, (2, 32))
    cache = Cache(model.config, 2, 32, torch.device("cpu"))
    with torch.no_grad():
        parts = [model(part, cache=cache)[0] for part in ids.split(cuts, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids)[0], atol=1e-5, rtol=1e-5)


def test_generation_past_the_context_reads_the_last_tokens(model: GPT) -> None:
    ids = torch.randint(85, (1, 5))
    text = continue_ids(model, ids, 45, temperature=0, seed=0)
    with torch.no_grad():
        for end in (6, 31, 32, 33, 49):
            window = text[:, max(0, end - 32) : end]
            assert model(window)[0][0, -1].argmax() == text[0, end]


def test_the_cache_is_no_longer_than_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(*args: Any) -> Cache:
        made.append(Cache(*args))
        return made[-1]

    monkeypatch.setattr(generation, "Cache", make)
    model = random_model(SHAPES["qwen3"])
    for prompt, tokens in ((5, 3), (5, 45), (40, 2)):
        continue_ids(model, torch.randint(85, (2, prompt)), tokens, 1.0, seed=0)
    assert [cache.store.shape[4] for cache in made] == [8, 32, 32]


def test_activation_checkpointing_changes_no_gradient(model: GPT) -> None:
    ids, targets = torch.randint(85, (2, 2, 32))
    twin = GPT(dataclasses.replace(model.config, dropout=0.2)).train()
    gradients = []
    for twin.activation_checkpointing in (False, True):
        twin.load_state_dict(model.state_dict())
        torch.manual_seed(1)
        twin(ids, targets)[1].mean().backward()
        gradients.append([p.grad.clone() for p in twin.parameters()])
        twin.zero_grad()
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_padding_the_vocabulary_changes_nothing(
    model: GPT, tmp_path: Path, compute: torch.dtype
) -> None:
    padded = GPT(model.config, compute)
    padded.load_state_dict(model.state_dict())
    plain = GPT(model.config, compute)
    plain.load_state_dict(model.state_dict())
    padded.head.multiple = 64  # 85 -> 128
    ids, targets = torch.randint(85, (2, 2, 32))
    for twin in (plain, padded):
        twin(ids, targets)[1].mean().backward()
    near = 1e-5 if compute == torch.float32 else 1e-2
    close = {"atol": near, "rtol": near}
    torch.testing.assert_close(padded(ids)[0], plain(ids)[0], **close)
    for ours, theirs in zip(padded.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **close)
    assert padded(ids)[0].shape[-1] == padded.head.weight.shape[0] == 85
    for name, twin in (("plain", plain), ("padded", padded)):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, twin.config, dict(twin.named_parameters()))
    for file in (tmp_path / "plain").iterdir():
        assert file.read_bytes() == (tmp_path / "padded" / file.name).read_bytes()


def test_a_padded_row_is_never_drawn() -> None:
    model = random_model(SHAPES["llama"])
    with torch.no_grad():
        model.head.weight.zero_()  # all 85 are equally likely, and so would the 43 rows be
    model.head.multiple = 64
    drawn = continue_ids(model, torch.zeros(64, 1, dtype=torch.long), 31, 1.0, seed=0)
    assert drawn.max() == 84


def test_a_shorter_context_is_the_same_model(model: GPT, tmp_path: Path) -> None:
    save_model(tmp_path, model.config, dict(model.named_parameters()))
    cropped = load_model(tmp_path, context=20, dropout=0.5)
    # learned positions are cut off, rotary ones stay
    kept = 20 if model.config.architecture == "gpt2" else 32
    assert cropped.config == dataclasses.replace(model.config, context=kept, dropout=0.5)
    ids = torch.randint(85, (2, 20))
    assert torch.equal(cropped(ids)[0], model(ids)[0])
    (tmp_path / "again").mkdir()
    save_model(tmp_path / "again", cropped.config, dict(cropped.named_parameters()))
    assert torch.equal(load_model(tmp_path / "again")(ids)[0], model(ids)[0])


def test_a_longer_context_is_refused(tmp_path: Path) -> None:
    model = random_model(SHAPES["gpt2"])
    save_model(tmp_path, model.config, dict(model.named_parameters()))
    with pytest.raises(UserError, match=f"33 is more than the 32 tokens .* {tmp_path}"):
        load_model(tmp_path, context=33)


def test_loss_is_the_cross_entropy_of_each_token(model: GPT) -> None:
    ids, targets = torch.randint(85, (2, 2, 7))
    logits, losses = model(ids, targets)
    expected = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3"])
def test_a_new_model_knows_nothing(architecture: str) -> None:
    shape = random_model({"architecture": architecture, "tied": architecture == "gpt2"}).config
    ids, targets = torch.randint(85, (2, 8, 32))
    loss = GPT(shape)(ids, targets)[1].mean().item()
    assert loss == pytest.approx(torch.tensor(85.0).log().item(), abs=0.1)


def test_bfloat16_products_stay_near(model: GPT) -> None:
    half = GPT(model.config, torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    ids, targets = torch.randint(85, (2, 8, 32))
    exact, near = model(ids, targets)[1].mean(), half(ids, targets)[1].mean()
    assert near.dtype == torch.float32
    assert near.item() == pytest.approx(exact.item(), rel=0.02)
