"""What leaves: a repository, a GGUF file or adapters that others load."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanogpt.commands.record import RECORD
from nanogpt.formats.gguf.file import read as read_gguf
from nanogpt.formats.weights import load_model, save_model
from nanogpt.model import GPT
from nanogpt.tracking import outbox
from tests.kit.fake_hub import SHARDED
from tests.kit.recipes import Run, contents
from tests.kit.trainings import CARD, begin, make_model, python, registration


def exported(folder: Path) -> dict[str, bytes]:
    """All files of an export, but for its record."""
    return {name: content for name, content in contents(folder).items() if name != RECORD}


def test_a_repository_is_the_model_directory(model: Path, run: Run) -> None:
    assert run("export", model) == (0, str(Path("exports/plays/hf").absolute()))
    assert exported(Path("exports/plays/hf")) == contents(model)


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
        torch.testing.assert_close(load_model(Path("half"))(ids), logits, atol=1e-5, rtol=0)


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
        assert torch.equal(load_model(Path("gpt2"))(ids), load_model(model)(ids))


def test_a_chat_template_may_be_a_file(model: Path, run: Run) -> None:
    (model / "chat_template.jinja").write_text("{{ bos }}")
    _, path = run("export", model, "--format", "gguf")
    assert read_gguf(Path(path)).metadata["tokenizer.chat_template"] == "{{ bos }}"


def test_adapters_are_copied(model: Path, run: Run) -> None:
    out = Path("exports/plays/peft").absolute()
    assert run("export", model, "--format", "peft") == (0, str(out))
    assert exported(Path("exports/plays/peft")) == contents(model / "adapter")


def test_what_is_its_owners_is_not_copied(model: Path, run: Run) -> None:
    shown = contents(model)
    for name in (".env", ".git/config", "training_args.bin", "adapter/optimizer.pt"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("hush")
    assert run("export", model, "--out", "out")[0] == 0
    assert exported(Path("out")) == shown


@pytest.mark.parametrize(("dtype", "other"), [("F16", "BF16"), ("BF16", "F32")])
def test_a_weight_that_a_type_has_not_is_refused(
    dtype: str, other: str, model: Path, run: Run
) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight"][3, 4] = {"F16": -70000.0, "BF16": 3.4e38}[dtype]
    save_file(tensors, model / "model.safetensors")
    code, said = run("export", model, "--dtype", dtype, "--out", "out")
    assert code == 2
    assert said.startswith("export: lm_head.weight has a value of ")
    assert said.endswith(f"too large for {dtype}; export it with --dtype {other}")
    assert not Path("out").exists()
    assert run("export", model, "--dtype", other, "--out", "out")[0] == 0
    assert load_model(Path("out")).head.weight.isfinite().all()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "has no tokenizer.json that can be read": lambda m: (m / "tokenizer.json").unlink(),
    "tokenizer.json is damaged, or not": lambda m: (m / "tokenizer.json").write_text("{}"),
    "tokenizer_config.json is not JSON": lambda m: (m / "tokenizer_config.json").write_text("{"),
}


@pytest.mark.parametrize("said", DAMAGE)
def test_a_tokenizer_that_cannot_be_exported_is_one_message(
    said: str, model: Path, run: Run
) -> None:
    DAMAGE[said](model)
    code, message = run("export", model, "--format", "gguf", "--out", "out")
    assert (code, said in message) == (2, True)
    assert not Path("out").exists()


def test_of_several_chat_templates_the_default_is_taken(model: Path, run: Run) -> None:
    about = json.loads((model / "tokenizer_config.json").read_text())
    about["chat_template"] = [
        {"name": "tool_use", "template": "{{ tools }}"},
        {"name": "default", "template": "{{ messages }}"},
    ]
    (model / "tokenizer_config.json").write_text(json.dumps(about))
    _, path = run("export", model, "--format", "gguf")
    assert read_gguf(Path(path)).metadata["tokenizer.chat_template"] == "{{ messages }}"


@pytest.fixture
def registered(tmp_path: Path, root: Path, exports_to: Callable[[Path], None]) -> Path:
    """A model of MLflow's registry, and its directory."""
    folder = make_model(tmp_path / "model")
    (folder / "README.md").write_text(CARD)
    exports_to(root)
    training = begin(root / "state", 8, saved=8)
    outbox.end(training, "FINISHED", folder, registration(folder, 2.0))
    return folder


def test_a_registered_model_is_fetched(registered: Path, run: Run) -> None:
    assert run("export", "models:/nanogpt-plays@candidate")[0] == 0
    assert exported(Path("exports/nanogpt-plays/hf")) == contents(registered)
    code, said = run("export", "models:/nanogpt-plays/7")
    assert code == 2
    assert "export: models:/nanogpt-plays/7: nanogpt-plays has no version 7: it was deleted" in said
    assert "; it has version 1 and @candidate (version 1)" in said
    code, said = run("export", "nanogpt-plays@candidate")
    assert said.endswith("; did you mean models:/nanogpt-plays@candidate?")


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
from nanogpt.commands import __main__ as command

command.checkout = lambda: command.CODE  # the folder of a test is no checkout
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))  # stands for a disk that is full
command.main()
"""


@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_a_full_disk_is_one_message_and_leaves_nothing(kind: str, model: Path) -> None:
    words = ["export", str(model), "--format", kind, "--out", "exports"]
    done = python(FULL, *words, cwd=Path())
    assert done.returncode == 1
    assert done.stderr.startswith("export: ")
    assert len(done.stderr.splitlines()) == 1
    assert not [path for path in Path().glob("exports*/**/*") if path.is_file()]
