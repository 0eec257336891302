"""The model against `transformers`, and the laws that any causal language model obeys."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanogpt.errors import UserError
from nanogpt.generation import continue_ids
from nanogpt.model import GPT, Cache, GPTConfig
from nanogpt.weights import load_model, save_model

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


def test_logits_equal_transformers(model: GPT, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save_model(tmp_path, model.config, dict(model.named_parameters()), eot=84)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(85, (2, 32))
    with torch.no_grad():
        torch.testing.assert_close(model(ids)[0], theirs(ids).logits, atol=1e-5, rtol=0)


def test_save_and_load_is_the_same_model_and_the_same_bytes(model: GPT, tmp_path: Path) -> None:
    save_model(tmp_path, model.config, dict(model.named_parameters()), eot=None)
    again = load_model(tmp_path)
    assert again.config == model.config
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
    first = (tmp_path / "model.safetensors").read_bytes()
    save_model(tmp_path, again.config, dict(again.named_parameters()), eot=None)
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
    cache = Cache(model.config, 2, torch.device("cpu"))
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


def damage(folder: Path, change: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    if change == "lacks the tensor":
        del tensors[name]
    elif change == "unknown tensor":
        tensors["stray.weight"] = torch.ones(3)
    elif change == "config.json says":
        tensors[name] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")
    if change == "cannot be read":
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    if change == "not a model directory":
        (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


@pytest.mark.parametrize(
    "change",
    [
        "lacks the tensor",
        "unknown tensor",
        "config.json says",
        "cannot be read",
        "not a model directory",
    ],
)
def test_a_damaged_model_directory_is_refused(tmp_path: Path, change: str) -> None:
    model = random_model(SHAPES["qwen3"])
    save_model(tmp_path, model.config, dict(model.named_parameters()), eot=None)
    damage(tmp_path, change)
    with pytest.raises(UserError, match=change):
        load_model(tmp_path)
