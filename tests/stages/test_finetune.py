"""Fine-tuning a small real base through all stages, wholly and by adapters."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from nanogpt.batches import Text, gather
from nanogpt.evaluation import bits_per_byte
from nanogpt.formats.weights import load_model, weights_sha256
from nanogpt.packing import Places
from nanogpt.text.tokens import open_tokens
from nanogpt.text.words import tokenizer, vocabulary
from tests.kit.recipes import Recipe, texts

STAGES = ("download", "tokenize", "train", "eval", "sample")
OF_BASE = {
    "download__corpus": "text/*.txt",
    "download__base": "base",
    "tokenize__tokenizer": "base",
    "model": {"context": 32, "dropout": 0.0},
    "train__optimizer": "adamw",
    "train__learning_rate": 0.003,
    "train__schedule": "constant",
    "sample__prompt": "def ",
}
LORA = {"rank": 4, "alpha": 8.0, "targets": "all-linear"}


def small_base(folder: Path, architecture: str = "llama") -> Path:
    """A checkpoint that transformers saved, with a tokenizer that it can read."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    characters = (chr(code) for code in (10, *range(32, 0x250)))
    vocabulary.write(folder, vocabulary.char_json(characters, eot=True))
    size = tokenizer.load(folder).vocab_size
    torch.manual_seed(1)
    ids = {"bos_token_id": size - 1, "eos_token_id": size - 1}
    if architecture == "gpt2":
        shape = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    else:
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        shape |= {"num_attention_heads": 4, "num_key_value_heads": 2}
        shape |= {"tie_word_embeddings": True, "max_position_embeddings": 64}
        shape |= {"pad_token_id": size - 1}
    if architecture == "smollm3":
        shape |= {"no_rope_layer_interval": 2}
    config = AutoConfig.for_model(architecture, vocab_size=size, **shape, **ids)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def new_recipe(folder: Path, architecture: str = "llama", **changes: Any) -> Recipe:
    """A recipe with a base and a text of its own, downloaded and tokenized."""
    folder.mkdir()
    texts(folder / "text")
    small_base(folder / "base", architecture)
    recipe = Recipe(folder, **(OF_BASE | changes))
    for stage in STAGES[:2]:
        recipe.run(stage)
    return recipe


@pytest.fixture(scope="module")
def tokenized_base(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    folder = tmp_path_factory.mktemp("finetune") / "tokenized"
    recipe = new_recipe(folder)
    shutil.copy(empty_database, recipe.folder / "mlflow.db")
    return folder


@pytest.fixture
def fresh(tokenized_base: Path, tmp_path: Path) -> Recipe:
    shutil.copytree(tokenized_base, tmp_path / "recipe", symlinks=True)
    return Recipe(tmp_path / "recipe", **OF_BASE)


@pytest.fixture(scope="module")
def done(tokenized_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("done") / "recipe"
    shutil.copytree(tokenized_base, folder, symlinks=True)
    recipe = Recipe(folder, **OF_BASE)
    for stage in STAGES[2:]:
        recipe.run(stage)
    return recipe


def loss(folder: Path, ids: np.ndarray, context: int) -> float:
    """Mean loss of the model in `folder`, window by window."""
    model = load_model(folder)
    nats = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, context):
            length = min(context, len(ids) - 1 - start)
            batch = gather(Text(ids), Places(start + np.arange(length)[None]))
            nats += model(batch.ids, batch.targets).sum().item()
    return nats / (len(ids) - 1)


def test_the_untouched_base_is_scored_first_and_the_best_is_kept(done: Recipe) -> None:
    training = json.loads((done.data / "train.json").read_text())
    val = open_tokens(done.data / "tokens").split("val")
    assert training["base_val_loss"] == pytest.approx(loss(done.folder / "base", val, 32), rel=1e-5)
    assert training["val_loss"] == pytest.approx(loss(done.data / "model", val, 32), rel=1e-5)
    assert training["val_loss"] < training["base_val_loss"] - 0.3
    split = open_tokens(done.data / "tokens").manifest.splits["val"]
    for name in ("val", "base_val"):
        bits = bits_per_byte(training[f"{name}_loss"], split.tokens, split.bytes)
        assert training[f"{name}_bits_per_byte"] == pytest.approx(bits)


def test_eval_scores_the_base_beside_the_model(done: Recipe) -> None:
    scores = json.loads((done.data / "eval.json").read_text())
    test = open_tokens(done.data / "tokens").split("test")
    assert scores["base"]["loss"] == pytest.approx(loss(done.folder / "base", test, 32), rel=1e-5)
    assert scores["loss"] < scores["base"]["loss"] - 0.3


def test_samples_show_before_and_after(done: Recipe) -> None:
    samples = (done.data / "samples.md").read_text()
    assert samples.count("```text\ndef ") == done.settings.sample.samples + 1
    assert "## Before: the base base" in samples
    client = MlflowClient(f"sqlite:///{done.folder}/mlflow.db")
    run_id = client.get_model_version_by_alias("nanogpt-test", "champion").run_id
    assert run_id is not None
    table = json.loads(Path(client.download_artifacts(run_id, "samples.json")).read_text())
    assert table["columns"] == ["sample", "text", "prompt"]
    titles = [row[0] for row in table["data"]]
    assert titles == ["Sample 1", "Sample 2", "Before: the base base"]


def test_run_version_and_card_know_the_base(done: Recipe) -> None:
    manifest = json.loads((done.data / "base" / "manifest.json").read_text())
    client = MlflowClient(f"sqlite:///{done.folder}/mlflow.db")
    version = client.get_model_version_by_alias("nanogpt-test", "champion")
    run = client.get_run(version.run_id)
    assert version.tags["base"] == run.data.tags["base"] == "base"
    assert run.data.tags["base_digest"] == manifest["digest"]
    assert manifest["digest"] in version.description
    assert run.data.metrics["eval_base_loss"] > run.data.metrics["eval_loss"]
    card = (done.data / "model" / "README.md").read_text()
    assert manifest["digest"] in card
    assert str(done.folder) not in card


def test_the_model_keeps_its_bases_shape_and_tokenizer(done: Recipe) -> None:
    before, after = (
        load_model(folder).config for folder in (done.folder / "base", done.data / "model")
    )
    assert before == after
    for name in ("tokenizer.json", "tokenizer_config.json"):
        there = (done.folder / "base" / name).read_bytes()
        assert (done.data / "model" / name).read_bytes() == there


@pytest.mark.slow
def test_zero_steps_publish_the_base(fresh: Recipe) -> None:
    fresh.change(**OF_BASE, train__steps=0)
    for stage in STAGES[2:]:
        fresh.run(stage)
    before = load_file(fresh.folder / "base" / "model.safetensors")
    after = load_file(fresh.data / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "base" not in json.loads((fresh.data / "eval.json").read_text())


OTHERS = ["gpt2", "mistral", "qwen2", "smollm3", "olmo2"]


@pytest.mark.parametrize(
    "architecture", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_adapters_train_merge_and_load_in_peft(
    tmp_path: Path, empty_database: Path, architecture: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    recipe = new_recipe(tmp_path / "recipe", architecture, train__lora=LORA)
    shutil.copy(empty_database, recipe.folder / "mlflow.db")
    printed = recipe.run("train")
    assert "are trained" in printed
    ours = load_model(recipe.data / "model")
    base = AutoModelForCausalLM.from_pretrained(recipe.folder / "base")
    theirs = PeftModel.from_pretrained(base, recipe.data / "model" / "adapter").eval()
    ids = torch.randint(60, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)
    training = json.loads((recipe.data / "train.json").read_text())
    assert training["val_loss"] < training["base_val_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "adapters"])
def test_a_killed_fine_tuning_goes_on_to_the_same_bytes(
    fresh: Recipe, tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    changes = OF_BASE | {"train__lora": lora, "train__steps": 60, "train__eval_interval": 20}
    fresh.change(**changes)
    shutil.copytree(fresh.folder, tmp_path / "whole", symlinks=True)
    whole = Recipe(tmp_path / "whole", **changes)
    whole.run("train")
    process = fresh.start(fresh.command("train"))
    while not list(fresh.data.glob("state/*/save-00000020")):
        assert process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "going on from step" in fresh.run("train")
    assert weights_sha256(fresh.data / "model") == weights_sha256(whole.data / "model")
    assert list(fresh.data.glob("state/*/finished.json"))


def test_more_context_than_the_base_has(fresh: Recipe) -> None:
    fresh.change(**OF_BASE | {"model": {"context": 65, "dropout": 0.0}})
    printed = fresh.run("train", code=2)
    assert "65" in printed
    assert "64" in printed


def test_tokens_of_another_tokenizer(fresh: Recipe) -> None:
    folder = fresh.data / "base"
    vocabulary.write(folder, vocabulary.char_json("abc", eot=True))
    assert "was not made with the tokenizer of" in fresh.run("train", code=2)
    assert not list(fresh.data.glob("state/*"))


def test_adapters_for_matrices_that_are_not_there(fresh: Recipe) -> None:
    fresh.change(**OF_BASE, train__lora=LORA | {"targets": ["c_attn"]})
    printed = fresh.run("train", code=2)
    assert "c_attn" in printed
    assert "q_proj" in printed
