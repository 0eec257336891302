"""How far two models are apart."""

import json
from pathlib import Path

from tests.kit.recipes import Run
from tests.kit.trainings import make_model


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
