"""All stages in a row on a small real recipe, and what a user does with the result."""

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt.formats.weights import load_model
from nanogpt.text.tokens import open_tokens
from nanogpt.text.words import tokenizer
from tests.kit.recipes import Recipe, Run, texts

STAGES = ("download", "tokenize", "train", "eval", "sample")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe run to its end on the library's own text; for reading."""
    folder = tmp_path_factory.mktemp("pipeline")
    texts(folder / "text")
    recipe = Recipe(
        folder,
        download__corpus="text/*.txt",
        train__steps=60,
        train__eval_interval=30,
        sample__prompt="def ",
    )
    for stage in STAGES:
        recipe.run(stage)
    return recipe


@pytest.fixture
def again(done: Recipe, tmp_path: Path) -> Recipe:
    """A copy of it, to spoil."""
    shutil.copytree(done.folder, tmp_path / "again", symlinks=True)
    return Recipe(tmp_path / "again", download__corpus="text/*.txt", sample__prompt="def ")


def nanogpt(recipe: Recipe, *words: str, code: int = 0) -> str:
    """Type a command where the recipe is; it must have this exit code. What it printed."""
    process = recipe.start([sys.executable, "-m", "nanogpt.commands", *words])
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == code, printed
    return printed


def test_scores_are_of_every_held_out_token(done: Recipe) -> None:
    scores = json.loads((done.data / "eval.json").read_text())
    tokens = open_tokens(done.data / "tokens").split("test").astype(np.int64)
    model = load_model(done.data / "model")
    nats = 0.0
    for start in range(0, len(tokens) - 1, 16):
        window = torch.from_numpy(tokens[start : start + 17])[None]
        with torch.no_grad():
            nats += model(window[:, :-1], window[:, 1:]).sum().item()
    assert scores["split"] == "test"
    assert scores["tokens"] == len(tokens) - 1
    assert scores["loss"] == pytest.approx(nats / (len(tokens) - 1), rel=1e-4)
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
    # the text is nearly all ASCII, a byte a token: bits per byte are near bits per token
    assert scores["bits_per_byte"] == pytest.approx(scores["loss"] / math.log(2), rel=0.02)


def test_the_published_model_is_one_of_transformers(done: Recipe) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = done.data / "model"
    model, theirs = load_model(folder), AutoModelForCausalLM.from_pretrained(folder)
    vocabulary = tokenizer.load(folder)
    prompt = "def main(args"
    ids = AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt").input_ids
    assert ids[0].tolist() == vocabulary.encode(prompt)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-5, rtol=0)


def test_the_card_says_what_the_model_is_made_of(done: Recipe) -> None:
    card = (done.data / "model" / "README.md").read_text()
    tokens = open_tokens(done.data / "tokens")
    assert tokens.digest in card
    assert tokens.manifest.corpus_digest in card
    assert '"learning_rate": 0.01' in card
    assert str(done.folder) not in card


def test_samples_are_written_and_start_with_the_prompt(done: Recipe) -> None:
    samples = (done.data / "samples.md").read_text()
    assert samples.count("```text\ndef ") == done.settings.sample.samples


def test_sampling_again_gives_the_same(again: Recipe) -> None:
    before = (again.data / "samples.md").read_text()
    again.run("sample")
    assert (again.data / "samples.md").read_text() == before


def test_playing_with_a_prompt_leaves_the_pipeline_alone(again: Recipe) -> None:
    before = (again.data / "samples.md").read_bytes()
    printed = nanogpt(again, "sample", "--prompt", "class ", "--samples", "1")
    assert printed.startswith("--- Sample 1 ---\nclass ")
    assert "Sample 2" not in printed
    assert (again.data / "samples.md").read_bytes() == before


def test_nothing_is_pickled(done: Recipe) -> None:
    magic = {b"PK\x03\x04": "a zip, such as torch.save writes", b"\x80\x04": "a pickle"}
    for path in done.folder.rglob("*"):
        if path.is_file():
            assert path.suffix not in {".pkl", ".pt", ".pth", ".ckpt"}, path
            head = path.read_bytes()[:4]
            assert not any(head.startswith(start) for start in magic), path


def test_mlflow_serves_the_champion(done: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{done.folder}/mlflow.db")
    model = mlflow.pyfunc.load_model("models:/nanogpt-test@champion")
    (text,) = model.predict(["def "])
    assert text.startswith("def ")
    assert len(text) > len("def ")
    (same,) = model.predict(["def "])
    assert same == text


def test_the_report_has_the_figures_and_a_sample(done: Recipe) -> None:
    printed = nanogpt(done, "report")
    scores = json.loads((done.data / "eval.json").read_text())
    assert f"{scores['bits_per_byte']:.4f}" in printed
    assert "tokens/s" in printed
    assert "version 1 (candidate, champion)" in printed
    assert "\ndef " in printed
    assert all(f"time of {stage}" in printed for stage in STAGES)


def test_there_is_nothing_to_report_yet(tmp_path: Path) -> None:
    printed = nanogpt(Recipe(tmp_path / "new"), "report", code=2)
    assert "has no train.json yet: `make run" in printed


def test_without_a_test_split_val_is_scored_and_it_says_so(again: Recipe) -> None:
    again.change(download__corpus="text/*.txt", tokenize__test=0.0)
    again.run("tokenize")
    assert "nothing to test on (tokenize.test is 0), so val is scored" in again.run("eval")
    assert json.loads((again.data / "eval.json").read_text())["split"] == "val"


@pytest.mark.slow
def test_a_score_does_not_depend_on_the_type_that_a_model_is_trained_in(again: Recipe) -> None:
    scores = set()
    for dtype in ("float32", "bfloat16", "auto"):
        again.change(machine__dtype=dtype)
        again.run("eval")
        scores.add((again.data / "eval.json").read_bytes())
    assert len(scores) == 1


def test_a_prompt_from_a_file(again: Recipe) -> None:
    (again.folder / "prompt.txt").write_text("import ")
    again.change(sample__prompt_file="prompt.txt")
    again.run("sample")
    assert "```text\nimport " in (again.data / "samples.md").read_text()


def test_a_prompt_file_that_is_not_there(again: Recipe) -> None:
    again.change(sample__prompt_file="nowhere.txt")
    assert "sample.prompt_file: 'nowhere.txt' does not exist" in again.run("sample", code=2)


def test_a_prompt_file_that_is_not_text(again: Recipe) -> None:
    (again.folder / "prompt.txt").write_bytes(b"abc\xff")
    again.change(sample__prompt_file="prompt.txt")
    assert "is not UTF-8 at byte 3" in again.run("sample", code=2)


def test_a_prompt_outside_the_vocabulary(again: Recipe) -> None:
    again.change(sample__prompt="def \N{SNOWMAN}")
    printed = again.run("sample", code=2)
    assert "\N{SNOWMAN}" in printed
    assert "U+2603" in printed


def test_a_model_of_other_tokens_is_not_scored(again: Recipe) -> None:
    (again.folder / "text" / "more.txt").write_text("\N{SNOWMAN}" * 1000)
    again.run("download")
    again.run("tokenize")
    assert "do not belong together" in again.run("eval", code=2)


def test_there_are_no_tokens_yet(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path / "empty")
    for stage in ("sample", "train"):
        said = recipe.run(stage, code=2)
        assert "data/test/tokens" in said
        assert "run the tokenize stage first" in said


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"To be", "too few"),
        (b"To be\xff", "UTF-8"),
        ("שלום עולם\n".encode() * 99, "train: sample.prompt: 'R' (U+0052) at position 0"),
    ],
    ids=["empty", "shorter than the context", "not UTF-8", "another alphabet"],
)
def test_a_corpus_that_is_none(tmp_path: Path, content: bytes, says: str) -> None:
    given: dict[str, Any] = {"download__corpus": "text.txt", "sample__prompt": "ROMEO:\n"}
    recipe = Recipe(tmp_path / "bad", **given, tokenize__test=0.0)
    (recipe.folder / "text.txt").write_bytes(content)
    for stage in STAGES:
        process = recipe.start(recipe.command(stage))
        printed, _ = process.communicate(timeout=120)
        assert "Traceback" not in printed
        if process.returncode:
            break
    assert process.returncode == 2
    assert says in printed
    assert not (recipe.data / "state").exists()


def test_the_champion_is_compared_on_its_own_held_out_text(
    done: Recipe, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{done.folder}/mlflow.db")
    code, page = run("compare", "models:/nanogpt-test@champion", "data/test/model")
    assert code == 0, page
    scores = json.loads((done.data / "eval.json").read_text())
    shown = f"{scores['bits_per_byte']:.4f}"
    assert f"| bits per byte | {shown} | {shown} |" in page
    assert "B is **0.0 % better, 95 % interval 0.0 to 0.0 %" in page
    assert page.count(": of 16 passages of this text none is in what it was trained on") == 2
    train = load_model(done.data / "model")  # whatever its rotary positions reach
    assert train.config.context >= 16
    assert "| tokens in a window | 16 | 16 |" in page

    text = next((done.folder / "text").glob("*_flows.txt"))
    code, page = run("compare", "data/test/model", "data/test/model", "--text", text)
    assert (
        page.count("of 16 passages of this text are in what it was trained on, word for word") == 2
    )
    assert "What stands in bold below speaks against this figure." in page
