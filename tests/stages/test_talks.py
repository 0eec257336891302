"""Fine-tuning a small base on conversations, from the file to answers."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from nanogpt.text.samples import from_markdown
from nanogpt.text.talks.template import open_template
from nanogpt.text.tokens import open_tokens
from nanogpt.text.words import tokenizer
from tests.kit import talks
from tests.kit.brought import base_json
from tests.kit.left_behind import everything
from tests.kit.recipes import Recipe, Run
from tests.stages.test_finetune import OF_BASE, STAGES
from tests.stages.test_train import kill_after_a_save, state
from tests.text.test_template import CHATML, TALK, theirs

pytestmark = pytest.mark.slow  # a minute of computing, five stages
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def base(folder: Path) -> None:
    """A plain model, whose texts end with the first special token, with a template of ChatML."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir()
    (folder / "tokenizer.json").write_text(base_json(SPECIAL))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(about | {"chat_template": CHATML}))
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlamaConfig(
        vocab_size=tokenizer.load(folder).vocab_size,
        num_attention_heads=4,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        **shape,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("talks")
    talks.write(folder / "talks.jsonl", 120)
    base(folder / "base")
    changes = {
        "download__corpus": "talks.jsonl",
        "download__text_field": "messages",
        "model": {"context": 64, "dropout": 0.0},
        "tokenize__val": 0.1,
        "tokenize__test": 0.1,
        "train__steps": 40,
        "train__eval_interval": 40,
        "train__learning_rate": 0.01,
        "train__packing": "documents",
        "train__loss_on": "assistant",
        "sample__prompt": "",
        "sample__tokens": 40,
        "sample__temperature": 0.0,
    }
    recipe = Recipe(folder, **(OF_BASE | changes))
    for stage in STAGES:
        recipe.run(stage)
    return recipe


def test_answers_cost_less_than_before(done: Recipe) -> None:
    scores = json.loads((done.data / "eval.json").read_text())
    assert scores["bits_per_byte"] < 0.7 * scores["base"]["bits_per_byte"]
    test = open_tokens(done.data / "tokens").manifest.splits["test"]
    assert scores["tokens"] == test.counted


def test_samples_answer_questions_of_the_held_out_text(done: Recipe) -> None:
    samples = from_markdown((done.data / "samples.md").read_text())
    assert [*samples] == ["Sample 1", "Sample 2", "Before: the base base"]
    learned = samples["Sample 1"].partition("[assistant]\n")[2]
    answer, _, known = learned.partition("\n\n[in the corpus]\n")
    assert answer.startswith(("It is", "Это"))
    assert answer.endswith(".")  # at the end of its turn
    assert known.startswith(("It is", "Это"))


def test_the_model_talks_by_its_template_elsewhere_too(done: Recipe) -> None:
    from transformers import AutoTokenizer

    folder = done.data / "model"
    ours = open_template(folder, tokenizer.load(folder))
    assert ours.render(TALK).ids.tolist() == theirs(AutoTokenizer.from_pretrained(folder), TALK)
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [
        SPECIAL.index(end) for end in SPECIAL if "start" not in end
    ]
    assert "| documents | conversations; loss on: assistant |" in (folder / "README.md").read_text()


def test_two_models_are_compared_on_a_file_of_conversations(
    done: Recipe, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done.folder)
    words = "data/test/model", "base", "--recipe=.", "--text=talks.jsonl"
    code, page = run("compare", *words)
    assert code == 0, page
    assert "Against A, B is **" in page
    assert "worse" in page.partition("Against A")[2].partition("\n")[0]
    assert "The text: `talks.jsonl`, " in page


def test_mlflow_s_model_answers(done: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{done.folder}/mlflow.db")
    model = mlflow.pyfunc.load_model("models:/nanogpt-test@champion")
    (answer,) = model.predict(["What is 3 plus 4?"], params={"temperature": 0.0})
    assert answer.startswith("It is")
    assert answer.endswith(".")


def test_killed_in_the_middle_it_ends_as_undisturbed(tmp_path: Path) -> None:
    changes = {
        "download__corpus": ["sums.jsonl", "more.jsonl"],
        "download__text_field": "messages",
        "tokenize__tokenizer": "bpe",
        "tokenize__vocab_size": 300,
        "model__context": 64,
        "train__steps": 30,
        "train__eval_interval": 5,
        "train__packing": "documents",
        "train__loss_on": "assistant",
        "train__weights": [3, 1],
    }
    folder = tmp_path / "whole"
    folder.mkdir()
    talks.write(folder / "sums.jsonl", 80)
    talks.write(folder / "more.jsonl", 40, seed=2)
    whole = Recipe(folder, **changes)
    for stage in ("check", "download", "tokenize"):
        whole.run(stage)
    shutil.copytree(folder, tmp_path / "killed", symlinks=True)
    killed = Recipe(tmp_path / "killed", **changes)
    kill_after_a_save(killed)
    assert state(killed)
    assert not (killed.data / "model").exists()
    for recipe in (whole, killed):
        recipe.run("train")
    assert everything(killed) == everything(whole)
