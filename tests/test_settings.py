"""params.yaml: what is complete loads, what is wrong is named with its path, value and remedy."""

import datetime
import re
from pathlib import Path

import pytest
import yaml

from nanogpt.common.errors import UserError
from nanogpt.settings import load
from tests.kit.recipes import values


def edited(tmp_path: Path, **changes: object) -> Path:
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values(**changes)))
    return file


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train__learnin_rate": 1}, ["train.learnin_rate: unknown key", "learning_rate"]),
        ({"train__learnin_rate": 1}, ["unknown key; did you mean train.learning_rate? known here"]),
        ({"modle": {}}, ["modle: unknown key; did you mean model? known here: root"]),
        ({"steps": 5}, ["steps: unknown key; did you mean train.steps?"]),
        ({"model__steps": 5}, ["model.steps: unknown key; did you mean train.steps?"]),
        ({"train__n_layers": 5}, ["train.n_layers: unknown key; did you mean model.n_layer?"]),
        ({"train__seed": 5}, ["did you mean seed or tokenize.seed or sample.seed?"]),
        (
            {"train__lora": {"rnak": 8}},
            ["train.lora.rnak: unknown key; did you mean train.lora.ra"],
        ),
        ({"train__lr": 5}, ["train.lr: unknown key; known here: steps, "]),
        ({"train__optimizer": "moun"}, ["'moun': should be 'muon' or 'adamw'; did you mean muon?"]),
        ({"machine__threads": "atuo"}, ["or should be a valid integer; did you mean auto?"]),
        (
            {"download__text_field": {"message": "a"}},
            [
                "params.yaml:\n  download.text_field.message: unknown key; did you mean "
                "download.text_field.messages?"
            ],
        ),
        (
            {"download__corpus": [{"corpus": "a", "text_field": "x", "weight": 2}, "b"]},
            ["download.corpus.weight: unknown key", "known here: corpus, text_field"],
        ),
        (
            {"download__corpus": ["a"]},
            ["download.corpus: ['a']: should have at least 2 items, not 1"],
        ),
        (
            {"download__text_field": {"prompt": "a"}},
            ["params.yaml:\n  download.text_field: prompt and completion belong together"],
        ),
        (
            {"download__text_field": None},
            ["string or should be a valid list or should be a mapping"],
        ),
        ({"machine__tokenize_executor": "dask"}, ["'dask': should be auto, or dask://host:port"]),
        ({"machine__tokenize_executor": "dask://a:0"}, ["should be auto, or dask://host:port"]),
        ({"train__learning_rate": -0.1}, ["train.learning_rate: -0.1", "greater than 0"]),
        ({"train__learning_rate": "fast"}, ["train.learning_rate: 'fast'", "number"]),
        ({"train__learning_rate": float("nan")}, ["train.learning_rate: nan", "finite"]),
        ({"train__steps": 1.5}, ["train.steps: 1.5", "integer"]),
        ({"train__steps": True}, ["train.steps: True", "integer"]),
        ({"train__warmup_steps": 9999}, ["warmup_steps 9999", "longer than the run of"]),
        ({"train__schedule": "linear"}, ["train.schedule: 'linear'", "'wsd', 'cosine'"]),
        ({"tokenize__val": 1.2}, ["tokenize.val: 1.2", "less than 1"]),
        (
            {"tokenize__tokenizer": "char", "tokenize__vocab_size": 512},
            ["vocab_size 512 is of a bpe, and 'char' brings its own: set it to null"],
        ),
        ({"tokenize__val": 0.6, "tokenize__test": 0.5}, ["leaves nothing to train on"]),
        ({"model__n_head": 3}, ["n_embd 128 is not a multiple of n_head 3"]),
        (
            {"model__n_head": 4, "model__n_kv_head": 3},
            ["n_head 4 is not a multiple of n_kv_head 3"],
        ),
        ({"model__bias": True}, ["qwen3 has no biases"]),
        ({"eval__confidence": 1}, ["eval.confidence: 1", "less than 1"]),
        ({"eval__least_gain": -0.01}, ["eval.least_gain: -0.01", "greater than or equal to 0"]),
        ({"eval__block": 0}, ["eval.block: 0", "greater than or equal to 1"]),
        ({"sample__top_p": 0}, ["sample.top_p: 0", "greater than 0"]),
        ({"sample__min_p": 1.5}, ["sample.min_p: 1.5", "less than or equal to 1"]),
        ({"sample__repetition_penalty": 0}, ["penalty: 0", "greater than or equal to 0.1"]),
        ({"sample__stop": "\n"}, ["sample.stop: '\\n'", "should be a valid list"]),
        ({"sample__stop": [""]}, ["sample.stop: ''", "at least 1 character"]),
        ({"machine__processes": 0}, ["machine.processes: 0", "'auto' or"]),
        ({"machine__device": "gpu"}, ["machine.device: 'gpu'", "'cuda'"]),
        ({"data": "data/a b"}, ["data: 'data/a b'", "a recipe's name"]),
        ({"data": "/data/mine"}, ["data: '/data/mine'", "should be data/ and"]),
        ({"data": "data/../../mine"}, ["data: 'data/../../mine'", "should be data/ and"]),
        ({"data": "data/v1.2"}, ["data: 'data/v1.2'", "up to 100 letters, digits"]),
        ({"data": "data/" + "a" * 101}, ["should be data/ and", "up to 100"]),
        ({"data": "da ta/mine"}, ["data: 'da ta/mine'", "should be data/ and"]),
        ({"data": "data/$(touch x)/mine"}, ["should be data/ and"]),
        ({"data": "results/mine"}, ["data: 'results/mine'", "should be data/ and"]),
        ({"data": "data"}, ["data: 'data'", "should be data/ and"]),
        ({"data": "./data/mine"}, ["should be data/ and"]),
        ({"params": "./params.yaml"}, ["params: './params.yaml'", "without needless parts"]),
        ({"root": "../"}, ["root: '../'", "without needless parts"]),
        ({"train": None}, ["train: None"]),
        ({"sample__temperature": 1e-320}, ["sample: temperature 1e-320: 0 takes the likeliest"]),
        ({"sample__top_p": 1e-300}, ["top_p 1e-300: top_k 1 keeps the likeliest"]),
        ({"sample__prompt_file": "a\0b"}, ["sample.prompt_file: 'a\\x00b'"]),
        ({"download__corpus": datetime.date(2020, 1, 1)}, ["a valid string; put it into quotes"]),
        ({"machine__nodes": 2}, ["nodes 2 need rendezvous: host:port"]),
        ({"machine__nodes": "1:2"}, ["nodes 1:2 need rendezvous"]),
        ({"machine__nodes": "2:1", "machine__rendezvous": "a:1"}, ["'2:1' should be fewest:most"]),
        ({"machine__rendezvous": "a:99999"}, ["a port is a number from 1 to 65535"]),
        ({"machine__device": "cpu", "machine__dtype": "float16"}, ["float16 needs a GPU"]),
        ({"train__batch_size": 1, "machine__processes": 2}, ["less than the 2 processes"]),
        (
            {"train__batch_size": 3, "machine__nodes": "1:4", "machine__rendezvous": "a:1"},
            ["train.batch_size: it is less than the 4 processes"],
        ),
        ({"model__n_embd": 4 * 10**9}, ["model.n_embd: 4000000000", "less than or equal to"]),
        ({"model__n_layer": 10**6}, ["less than or equal to 1000"]),
        ({"train__steps": 2**70}, ["train.steps: 1180591620717411303424", "less than or"]),
        ({"machine__nodes": "1:99999", "machine__rendezvous": "a:1"}, ["machine.nodes: '1:99999'"]),
        ({"sample__prompt": "a ${seed} b"}, ["sample.prompt: 'a ${seed} b'", "prompt_file"]),
    ],
)
def test_refuses_with_path_value_and_remedy(
    tmp_path: Path, changes: dict[str, object], says: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        load(edited(tmp_path, **changes))
    for part in says:
        assert part in str(error.value)


@pytest.mark.parametrize("key", ["corpus", "base"])
@pytest.mark.parametrize("address", ["https://me:hunter2@a.b/c.txt", "s3://a/b.txt?token=hunter2"])
def test_a_password_is_refused_and_not_shown(tmp_path: Path, key: str, address: str) -> None:
    more = {"download__base": "gpt2", "tokenize__tokenizer": "base"} if key == "base" else {}
    for value in (address, [address]):
        with pytest.raises(UserError, match=rf"download\.{key}") as error:
            load(edited(tmp_path, **(more | {f"download__{key}": value})))
        assert "hunter2" not in str(error.value)
    assert "would stand in dvc.lock" in str(error.value) or key == "corpus"


def test_all_mistakes_come_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(edited(tmp_path, train__steps=0, sample__samples=0, tokenize__val=2))
    lines = str(error.value).splitlines()
    assert len(lines) == 4  # the file, and one line a mistake


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    file = edited(tmp_path)
    file.write_text(file.read_text().replace("  batch_size:", "  batchsize:"))
    with pytest.raises(UserError, match=r"train\.batch_size: is missing; the default recipe"):
        load(file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no settings"),
        ("a: [", "not valid YAML"),
        (b"\xff\xfe", "not valid YAML"),
    ],
)
def test_a_file_that_is_not_settings(tmp_path: Path, text: str | bytes, says: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=says):
        load(file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "params.yaml")


def written(tmp_path: Path, line: str) -> Path:
    """The settings with a line in the place of the one that has its key, as a person wrote it."""
    file = edited(tmp_path)
    key = line.partition(":")[0]
    text, count = re.subn(rf"(?m)^( +){key}: .*$", rf"\g<1>{line}", file.read_text())
    assert count == 1
    file.write_text(text)
    return file


def test_numbers_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    assert load(written(tmp_path, "learning_rate: 1e-3")).train.learning_rate == 0.001
    assert load(written(tmp_path, "log_interval: 0010")).train.log_interval == 10
    with pytest.raises(UserError, match="nodes 1:2 need"):  # and not 62
        load(written(tmp_path, "nodes: 1:2"))
    with pytest.raises(UserError, match=r"train\.log_interval: '1:2': should be a valid integer"):
        load(written(tmp_path, "log_interval: 1:2"))


def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path: Path) -> None:
    file = edited(tmp_path)
    file.write_text(file.read_text() + "seed: 2\n")
    line = len(file.read_text().splitlines())
    with pytest.raises(UserError) as error:
        load(file)
    # and not how a programmer could allow it
    assert str(error.value) == (
        f'{file} is not valid YAML: found duplicate key "seed", in line {line}, column 1'
    )


@pytest.mark.parametrize("changes", [{"root": ".."}, {"params": "pipelines/mine/params.yaml"}])
def test_a_file_that_another_recipe_was_copied_from(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    recipe = tmp_path / "mine"
    recipe.mkdir()
    (tmp_path / "params.yaml").write_text("of another recipe")
    file = edited(recipe, **changes)
    with pytest.raises(UserError) as error:
        load(file)
    place, said = str(error.value).splitlines()
    assert place == f"{file}:"
    assert "is another file than this one" in said
    assert "needs its own root, params and data" in said


def test_a_recipe_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "pipelines" / "mine"
    recipe.mkdir(parents=True)
    edited(recipe, root="../..", params="pipelines/mine/params.yaml")
    for folder, path in ((tmp_path, "pipelines/mine/params.yaml"), (recipe, "params.yaml")):
        monkeypatch.chdir(folder)
        assert load(path).root == "../.."
