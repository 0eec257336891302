"""What leaves: a repository, a GGUF file or adapters that others load."""

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nanogpt.formats.gguf.file import read as read_gguf
from nanogpt.formats.weights import load_model, save_model
from nanogpt.model import GPT
from nanogpt.tracking import outbox
from tests.kit.fake_hub import SHARDED
from tests.kit.recipes import Run, contents
from tests.kit.trainings import CARD, begin, make_model, python, registration


def exports_to(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # by its name, nanogpt.commands.export, it is the command until the module is imported
    monkeypatch.setattr(importlib.import_module("nanogpt.commands.export"), "CODE", root)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model directory, plays/model, below the current folder, which stands for the root."""
    monkeypatch.chdir(tmp_path)
    exports_to(tmp_path, monkeypatch)
    (tmp_path / "plays").mkdir()
    folder = make_model(Path("plays/model"))
    (folder / "README.md").write_text(CARD)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"small")
    return folder


def test_a_repository_is_the_model_directory(model: Path, run: Run) -> None:
    assert run("export", model) == (0, str(Path("exports/plays/hf").absolute()))
    assert contents(Path("exports/plays/hf")) == contents(model)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_a_repository_of_half_the_size_is_loaded_by_transformers(
    dtype: str, model: Path, run: Run
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert run("export", model, "--dtype", dtype, "--out", "half") == (0, "half")
    kind = {"BF16": torch.bfloat16, "F16": torch.float16}[dtype]
    stored = load_file("half/model.safetensors")
    for name, tensor in load_file(model / "model.safetensors").items():
        assert torch.equal(stored[name], tensor.to(kind))
    theirs = AutoModelForCausalLM.from_pretrained("half")
    assert theirs.dtype == kind
    ids = torch.tensor(AutoTokenizer.from_pretrained("half")(["To be"])["input_ids"])
    with torch.no_grad():
        logits = theirs.float().eval()(ids).logits
        torch.testing.assert_close(load_model(Path("half"))(ids)[0], logits, atol=1e-5, rtol=0)


def test_shards_and_gguf_become_one_file(checkpoints: Path, model: Path, run: Run) -> None:
    sharded = checkpoints / SHARDED
    assert run("export", sharded, "--out", "one") == (0, "one")
    assert [path.name for path in Path("one").glob("model*")] == ["model.safetensors"]
    assert run("export", sharded, "--format", "gguf", "--dtype", "F32", "--out", "base")
    for name in ("config.json", "tokenizer.json"):
        (Path("base") / name).write_bytes((sharded / name).read_bytes())
    assert run("export", "base", "--out", "again") == (0, "again")
    first = dict(load_model(sharded).named_parameters())
    for folder in ("one", "again"):
        for name, parameter in load_model(Path(folder)).named_parameters():
            assert torch.equal(parameter, first[name])


@pytest.mark.parametrize("dtype", [None, "F32", "F16", "Q8_0"])
def test_a_gguf_file_has_the_model(dtype: str | None, model: Path, run: Run) -> None:
    about = json.loads((model / "tokenizer_config.json").read_text())
    about["chat_template"] = "{{ messages }}"
    (model / "tokenizer_config.json").write_text(json.dumps(about))
    path = Path.cwd() / f"exports/plays/gguf/plays-{dtype or 'F16'}.gguf"
    arguments = ["--dtype", dtype] if dtype else []
    assert run("export", model, "--format", "gguf", *arguments) == (0, str(path))
    file = read_gguf(path)
    assert file.config == load_model(model).config
    assert file.metadata["general.name"] == path.stem
    assert file.metadata["tokenizer.chat_template"] == "{{ messages }}"
    for name, tensor in load_file(model / "model.safetensors").items():
        found = dict(file.tensors())[name]
        off = {None: 1e-3, "F32": 0, "F16": 1e-3, "Q8_0": 1e-2}[dtype]
        assert abs(torch.from_numpy(found) - tensor).max() <= off * tensor.abs().max()


def test_a_nanogpt_without_biases_becomes_gguf(model: Path, run: Run) -> None:
    config = replace(load_model(model).config, architecture="gpt2", activation="gelu_new")
    save_model(model, config, dict(GPT(config).named_parameters()))
    arguments = ("--format", "gguf", "--dtype", "F32", "--out", "gpt2")
    assert run("export", model, *arguments)[0] == 0
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(model / name, "gpt2")
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(load_model(Path("gpt2"))(ids)[0], load_model(model)(ids)[0])


def test_a_chat_template_may_be_a_file(model: Path, run: Run) -> None:
    (model / "chat_template.jinja").write_text("{{ bos }}")
    _, path = run("export", model, "--format", "gguf")
    assert read_gguf(Path(path)).metadata["tokenizer.chat_template"] == "{{ bos }}"


def test_adapters_are_copied(model: Path, run: Run) -> None:
    out = Path("exports/plays/peft").absolute()
    assert run("export", model, "--format", "peft") == (0, str(out))
    assert contents(Path("exports/plays/peft")) == contents(model / "adapter")


def test_an_older_export_is_replaced_and_nothing_else(model: Path, run: Run) -> None:
    assert run("export", model, "--out", "out")[0] == 0
    (Path("out") / "older").touch()
    assert run("export", model, "--out", "out")[0] == 0
    assert not (Path("out") / "older").exists()
    Path("mine").mkdir()
    assert run("export", model, "--out", "mine")[0] == 0  # it was empty
    code, said = run("export", model, "--out", ".")
    assert code == 2
    assert said == "export: --out . is there, and no earlier export; name a folder of its own"
    assert run("export", model, "--format", "peft", "--out", "out")[0] == 2
    assert run("export", model, "--out", "plays/model/config.json")[0] == 2
    assert sorted(path.name for path in Path().iterdir()) == ["mine", "out", "plays"]


@pytest.fixture
def registered(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of MLflow's registry, and its directory."""
    folder = make_model(tmp_path / "model")
    (folder / "README.md").write_text(CARD)
    exports_to(root, monkeypatch)
    training = begin(root / "state", 8, saved=8)
    outbox.end(training, "FINISHED", folder, registration(folder, 2.0))
    return folder


def test_a_registered_model_is_fetched(registered: Path, run: Run) -> None:
    assert run("export", "models:/nanogpt-plays@candidate")[0] == 0
    assert contents(Path("exports/nanogpt-plays/hf")) == contents(registered)
    code, said = run("export", "models:/nanogpt-plays/7")
    assert code == 2
    assert "export: models:/nanogpt-plays/7: MLflow at sqlite:///" in said
    assert "version=7) not found; its names, versions and aliases are in `nanogpt ui`" in said


MISTAKES = {
    "export: nowhere is neither a folder with a config.json nor a model in MLflow's": ("nowhere",),
    "export: --format 'onnx' is not known; known: hf, gguf, peft": ("{model}", "--format", "onnx"),
    "export: --dtype 'Q8_0' is not for --format hf; known: F32, F16, BF16": (
        *("{model}", "--dtype", "Q8_0"),
    ),
    "export: --dtype 'Q4_0' is not for --format gguf; known: F16, F32, Q8_0": (
        *("{model}", "--format", "gguf", "--dtype", "Q4_0"),
    ),
    "export: --dtype 'F32' is not for --format peft; the adapters are copied": (
        *("{model}", "--format", "peft", "--dtype", "F32"),
    ),
    "No such option: --model": ("--model", "{model}"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_one_message(message: str, model: Path, run: Run) -> None:
    code, said = run("export", *(word.format(model=model) for word in MISTAKES[message]))
    assert code == 2
    assert message in said.splitlines()[-1]
    assert not Path("exports").exists()


def test_a_model_that_cannot_be_exported_is_one_message(model: Path, run: Run) -> None:
    (model / "adapter" / "adapter_config.json").unlink()
    message = f"export: {model} has no adapter/: it was not trained with train.lora"
    assert run("export", model, "--format", "peft") == (2, message)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for kind in ("hf", "gguf"):
        code, said = run("export", model, "--format", kind)
        assert code == 2
        assert f"{weights} cannot be read" in said
    assert not list(Path().glob("exports/*/*/*"))


FULL = """
import resource
from nanogpt import commands

commands.checkout = lambda: commands.CODE  # the folder of a test is no checkout
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))  # stands for a disk that is full
commands.main()
"""


@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_a_full_disk_is_one_message_and_leaves_nothing(kind: str, model: Path) -> None:
    words = ["export", str(model), "--format", kind, "--out", "exports"]
    done = python(FULL, *words, cwd=Path())
    assert done.returncode == 1
    assert done.stderr.startswith("export: ")
    assert len(done.stderr.splitlines()) == 1
    assert not [path for path in Path().glob("exports*/**/*") if path.is_file()]
