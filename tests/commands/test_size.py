"""`nanogpt size`: what a person sees, what programs get, and the recipe that it writes."""

import json
import re
import shutil
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import pytest
import yaml

from nanogpt.common.manifest import write_manifest
from nanogpt.formats.base import Base
from nanogpt.settings import load
from nanogpt.sizing.dial import by_heart
from nanogpt.text.tokens import open_tokens
from tests.kit.recipes import ROOT, Run
from tests.kit.toy import make_project


def test_figures_of_a_recipe_whose_tokens_are_made(tokenized: Path, run: Run) -> None:
    code, said = run("size", tokenized, "--json", "--no-measure")
    assert code == 0
    found = json.loads(said)
    settings, manifest = (
        load(tokenized / "params.yaml"),
        open_tokens(tokenized / "data" / "test" / "tokens").manifest,
    )
    tokens = settings.train.steps * settings.train.batch_size * settings.model.context
    assert found["tokens"] == tokens
    assert found["epochs"] == pytest.approx(tokens / manifest.splits["train"].tokens)
    entries, (layers, width, inner) = manifest.vocab_size, (2, 32, 64)
    assert found["matrices"] == layers * (4 * width**2 + 3 * width * inner) + entries * width
    assert found["flops"] == found["flops_per_token"] * tokens
    assert found["speed"] is found["seconds"] is None
    assert found["changes"] == {}
    assert 0 < found["memory"]["needed"] < found["memory"]["there"]
    assert found["elsewhere"]["A100"] == pytest.approx(found["flops"] / (0.4 * 312e12))


def test_more_weights_than_the_text_has_tokens_are_told(tokenized: Path, run: Run) -> None:
    text = open_tokens(tokenized / "data" / "test" / "tokens").manifest.splits["train"].tokens
    large = ("size", tokenized, "--depth=8", "--no-measure")
    told = f"with more weights than its {text:,} tokens it may be learned by heart"
    assert told in run(*large)[1]
    assert "by heart" not in run(*large, f"--ratio={text / 1e7}")[1]  # which does not read it again
    assert by_heart(1.5 * text, 2 * text, text)
    assert not by_heart(0.5 * text, 2 * text, text)


def test_tokens_of_another_vocabulary_are_not_gone_by(
    tokenized: Path, tmp_path: Path, run: Run
) -> None:
    shutil.copytree(tokenized, tmp_path, dirs_exist_ok=True, symlinks=True)
    path = tmp_path / "params.yaml"
    own = yaml.safe_load(path.read_text())
    for tokenizer, asked, entries in (("bpe", 3000, 3000), ("gpt2", None, 50257)):
        other = {"tokenizer": tokenizer, "vocab_size": asked}
        path.write_text(yaml.safe_dump(own | {"tokenize": own["tokenize"] | other}))
        code, said = run("size", tmp_path, "--json", "--no-measure")
        assert code == 0, said
        assert (json.loads(said)["parts"]["head"], json.loads(said)["epochs"]) == (
            entries * 32,
            None,
        )
        code, said = run("scaling", tmp_path)
        assert (code, f"tokenizer is {tokenizer}, and they were made by char" in said) == (2, True)


def test_tokens_of_another_text_are_not_gone_by(tokenized: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(tokenized, tmp_path, dirs_exist_ok=True, symlinks=True)
    path = tmp_path / "params.yaml"
    path.write_text(path.read_text().replace("text/*.txt", "mine.txt"))
    for command in ("size", "scaling"):
        code, said = run(command, tmp_path)
        assert (code, "corpus is mine.txt, and they were made by text/*.txt" in said) == (2, True)


def test_a_base_that_is_not_there_or_another_one_is_named(
    tokenized: Path, tmp_path: Path, run: Run
) -> None:
    make_project(tmp_path, "pipelines/finetune_shakespeare")
    recipe = tmp_path / "pipelines/finetune_shakespeare"
    code, said = run("size", recipe)
    assert (code, "has not fetched its base yet, gpt2 or smollm2-135m" in said) == (2, True)
    base = tmp_path / "data/finetune_shakespeare/base"
    shutil.copytree(tokenized / "data/test/base", base)
    write_manifest(base, Base(name="gpt2-xl"))
    code, said = run("size", recipe)
    assert (code, "has gpt2-xl in the place of its base, gpt2" in said) == (2, True)
    # its shape is known before its tokens are
    write_manifest(base, Base(name="gpt2"))
    shape = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 32, "vocab_size": 100}
    (base / "config.json").write_text(json.dumps(shape | {"n_positions": 512}))
    code, said = run("size", recipe, "--json")
    assert code == 0, said
    found = json.loads(said)
    assert (found["parts"]["token embedding"], found["epochs"]) == (3200, None)
    assert found["parts"]["positions"] == 256 * 32  # as many as model.context leaves of them
    (base / "config.json").write_text(json.dumps(shape | {"n_positions": 128}))
    code, said = run("size", recipe)
    assert (code, "256 is more than the 128 tokens of gpt2" in said) == (2, True)


def test_steps_are_timed(
    tokenized: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = run("size", tokenized, "--depth=3", "--json")
    assert code == 0
    found = json.loads(said)
    assert found["speed"]["steps"] == 10
    assert found["seconds"] == pytest.approx(found["tokens"] / found["speed"]["tokens_per_second"])
    assert found["changes"]["model.n_embd"] == 48
    recipe = yaml.safe_load((tokenized / "params.yaml").read_text())
    recipe["train"]["max_minutes"] = 1e-6
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "data").symlink_to(tokenized / "data")
    code, said = run("size", tmp_path)
    assert (code, "train.max_minutes ends it after 6e-05 s" in said) == (0, True)
    monkeypatch.setattr("nanogpt.sizing.memory.available", lambda _: 1000)
    code, said = run("size", tokenized, "--depth=3")
    assert (code, "not measured: it does not fit" in said) == (0, True)
    monkeypatch.setenv("NANOGPT_MEMORY_CHECK", "off")
    code, said = run("size", tokenized, "--depth=3")
    assert code == 0
    for part in ("turned to a depth of 3", "attention (3 x", "median of 10 steps", "H100"):
        assert part in said


def test_what_does_not_go_together_is_refused(tmp_path: Path, run: Run) -> None:
    make_project(tmp_path, "pipelines/finetune_shakespeare", "pipelines/shakespeare_gpu")
    code, said = run("size", tmp_path, "--name=wide")
    assert (code, "say DEPTH=" in said) == (2, True)
    code, said = run("size", tmp_path, "--depth=2", "--name=")
    assert (code, "cannot be empty" in said) == (2, True)
    code, said = run("size", tmp_path / "pipelines/shakespeare_gpu", "--depth=2")
    assert (code, "has no tokens yet" in said) == (2, True)
    code, said = run("size", tmp_path / "pipelines/finetune_shakespeare", "--depth=2")
    assert (code, "comes with download.base" in said) == (2, True)
    code, said = run("size", tmp_path, "--depth=8", "--ratio=99999", "--no-measure")
    assert re.search(r"train\.steps +[\d,]+ +\d+,\d{3},\d{3} ", said), said
    code, said = run("size", tmp_path, "--depth=2000", "--no-measure")
    assert (code, "model.n_layer: 2000" in said) == (2, True)


def test_a_recipe_is_written_only_if_it_has_a_name(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path, "pipelines/finetune_shakespeare")
    (tmp_path / "nanogpt").symlink_to(ROOT / "nanogpt")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("params.yaml"))
    assert run("size", "--depth=6", "--no-measure")[0] == 0
    assert sorted(tmp_path.rglob("params.yaml")) == before
    code, said = run("size", "--depth=6", "--no-measure", "--name=deeper")
    assert code == 0, said
    text = Path("pipelines/deeper/params.yaml").read_text()
    assert "# of Muon" in text
    written, own = yaml.safe_load(text), yaml.safe_load(Path("params.yaml").read_text())
    assert (written["model"]["n_layer"], written["model"]["n_embd"]) == (6, 192)
    assert written["download"] == own["download"]
    settings = load("pipelines/deeper/params.yaml")
    assert settings.train.steps > own["train"]["steps"]
    # the same again is told to be no new one, as the recipe that it was made from may have changed
    with redirect_stderr(StringIO()) as told:
        assert run("size", "--depth=6", "--no-measure", "--name=deeper")[0] == 0
    assert "pipelines/deeper was there already" in told.getvalue()
    assert Path("pipelines/deeper/params.yaml").read_text() == text
    shutil.rmtree("pipelines/deeper")
    Path("pipelines/deeper").mkdir()
    # a folder that is no recipe stays as it is
    code, said = run("size", "--depth=6", "--no-measure", "--name=deeper")
    assert (code, "is no recipe" in said, "parameters" in said) == (2, True, False)
