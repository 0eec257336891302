"""How far two models are apart."""

import json
import shutil
from pathlib import Path

import pytest

from nanogpt.scoring.blocks import score
from nanogpt.text.tokens import open_tokens
from nanogpt.text.writer import tokenize
from tests.kit import talks
from tests.kit.recipes import Run
from tests.kit.trainings import make_model
from tests.scoring.test_blocks import random_model, world
from tests.text.test_documents import make_raw, settings


def test_a_model_and_its_copy_are_identical(tmp_path: Path, run: Run) -> None:
    one, copy = make_model(tmp_path / "one"), make_model(tmp_path / "copy")
    code, said = run("differ", one, copy)
    assert (code, said) == (0, "identical: all files have the same bytes")
    (copy / "README.md").write_text("a card")
    code, said = run("differ", one, copy)
    assert said.splitlines() == [
        "1 files differ: README.md",
        "the weights are the same bytes",
    ]


def test_other_weights_are_measured(tmp_path: Path, run: Run) -> None:
    one, other = make_model(tmp_path / "one"), make_model(tmp_path / "other", seed=2)
    code, said = run("differ", one, other, "--json")
    found = json.loads(said)
    assert code == 0
    assert found["files"] == ["model.safetensors"]
    assert found["weights"][0] != found["weights"][1]
    assert 0 < found["max_abs"] < 10
    assert 1 < found["relative"] < 2, "two models of random weights"
    assert found["tensor"] in run("differ", one, other)[1]


def test_a_text_of_another_tokenizer_is_refused(tokenized: Path, tmp_path: Path, run: Run) -> None:
    one, other = make_model(tmp_path / "one"), make_model(tmp_path / "other", seed=2)
    code, said = run("differ", one, other, "--tokens", tokenized / "data" / "test" / "tokens")
    assert code == 2
    assert "has another tokenizer than" in said


def test_conversations_are_scored_as_in_training(tmp_path: Path, run: Run) -> None:
    """Each from its start, in windows that hold no two."""
    talks.write(tmp_path / "talks.jsonl", 60)
    said = {"talks.jsonl": (tmp_path / "talks.jsonl").read_bytes()}
    tokenize(make_raw(tmp_path / "raw", said, "messages"), tmp_path / "tokens", settings(val=0.2))
    models = [tmp_path / "one", tmp_path / "other"]
    for seed, folder in enumerate(models):
        folder.mkdir()
        for file in ("tokenizer.json", "chat_template.jinja"):
            shutil.copy(tmp_path / "tokens" / file, folder)
        random_model(folder)
        (folder / "README.md").write_text(f"# {seed}")
    code, said = run("differ", *models, "--tokens", tmp_path / "tokens", "--json")
    assert code == 0
    scores = score(models[0], open_tokens(tmp_path / "tokens").text("val"), 16, world())
    bits = scores.figures()["bits_per_byte"]
    assert json.loads(said)["bits_per_byte"] == pytest.approx([bits, bits])


def test_what_is_no_model_or_of_another_shape_is_said(tmp_path: Path, run: Run) -> None:
    one = make_model(tmp_path / "one")
    code, said = run("differ", one, tmp_path / "nowhere")
    assert code == 2
    assert "nowhere is neither a folder with a config.json nor a model" in said
    other = make_model(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    code, said = run("differ", one, other)
    assert code == 2
    assert "Traceback" not in said


def test_a_machine_says_what_decides_its_bytes(run: Run) -> None:
    code, said = run("machine")
    found = json.loads(said)
    assert code == 0
    assert "cpu" in found["devices"]
    assert found["cores"] >= 1
    assert {"processor", "instruction_set", "torch", "torch_build", "blas"} <= found.keys()
