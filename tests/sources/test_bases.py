"""Where a base model comes from, what is refused, and what is said when it does not come."""

import json
import socket
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

from nanogpt.common.errors import UserError
from nanogpt.formats.base import open_base
from nanogpt.formats.gguf.file import read as read_gguf
from nanogpt.formats.gguf.file import write as write_gguf
from nanogpt.formats.hub.config import read_config
from nanogpt.sources.bases import BASES, download_base, find
from nanogpt.sources.fetch import Wheel
from nanogpt.sources.hub import INDEX
from nanogpt.text.words import tokenizer, vocabulary
from nanogpt.text.words.library import EOT
from nanogpt.tracking import outbox
from tests.kit.fake_hub import CHARACTERS, SHARDED, SINGLE, FakeHub
from tests.kit.trainings import begin, client, make_model, registration
from tests.sources.test_download import network


def change(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rewrite(folder: Path, **tensors: Any) -> None:
    """Change or (None) leave out tensors; `_` in a name stands for a dot."""
    path = folder / "model.safetensors"
    there = load_file(path)
    for name in list(there):
        if (key := name.replace(".", "_")) in tensors:
            value = tensors[key]
            there |= {} if value is None else {name: value(there[name])}
            if value is None:
                del there[name]
    save_file(there, path, {"format": "pt"})


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def refused(*names: str) -> str:
    """The message with which these bases are refused; nothing is left of them."""
    with pytest.raises(UserError) as caught:
        download_base(list(names), Path("refused"))
    assert not list(Path.cwd().glob("refused*"))
    return str(caught.value)


def test_no_base_is_a_manifest_of_nulls(tmp_path: Path) -> None:
    manifest = download_base([], tmp_path / "base")
    assert manifest == open_base(tmp_path / "base")
    assert manifest.name is manifest.source is manifest.digest is None
    assert (manifest.files, manifest.lineage) == ((), {})
    assert [path.name for path in (tmp_path / "base").iterdir()] == ["manifest.json"]


Breakage = Callable[[Path], object]


@pytest.mark.parametrize("place", ["hub", "folder"])
@pytest.mark.parametrize(
    ("repository", "breakage", "said"),
    [
        (
            SHARDED,
            lambda f: shards(f)[1].unlink(),
            "names model-00002-of-{shards}.safetensors, which",
        ),
        (SHARDED, lambda f: change(f, INDEX, weight_map=3), f"{INDEX} is damaged"),
        (SHARDED, lambda f: change(f, INDEX, weight_map={"x": 3}), f"{INDEX} is damaged"),
        (SINGLE, lambda f: (f / "config.json").unlink(), "it has no config.json"),
        (SINGLE, lambda f: (f / "tokenizer.json").unlink(), "it has no tokenizer.json; load the"),
        (SINGLE, lambda f: (f / "model.safetensors").unlink(), "it has no model.safetensors"),
        (
            SINGLE,
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "it has no model.safetensors, but pytorch_model.bin: a pickle, which can run any code",
        ),
        (
            SINGLE,
            lambda f: (f / "model.safetensors").rename(f / "model-F16.gguf"),
            "it has no model.safetensors, but model-F16.gguf; download one of these",
        ),
        (
            SINGLE,
            lambda f: change(f, "config.json", model_type="mamba"),
            "config.json: model_type: 'mamba' is not ",
        ),
        (
            SHARDED,
            lambda f: change(f, "config.json", attention_bias=True),
            "config.json: attention_bias: True is not ",
        ),
        (
            SINGLE,
            lambda f: change(f, "config.json", vocab_size=90),
            "tokenizer.json does not fit: it has 96 tokens, where config.json says vocab_size 90",
        ),
        (
            SINGLE,
            lambda f: vocabulary.write(f, vocabulary.char_json(CHARACTERS, eot=False)),
            "tokenizer.json does not fit: eos_token_id of config.json and "
            "generation_config.json says {{95}}, which is not",
        ),
        (
            SINGLE,
            lambda f: (f / "tokenizer.json").write_text("{}"),
            "tokenizer.json is damaged, or not a tokenizer",
        ),
        (
            SINGLE,
            lambda f: rewrite(f, transformer_h_0_ln_1_weight=None),
            ": it lacks the tensor transformer.h.0.ln_1.weight",
        ),
        (
            SINGLE,
            lambda f: rewrite(f, transformer_wte_weight=lambda t: t / 0),
            ": model.safetensors: transformer.wte.weight has values that are NaN or infinite",
        ),
        (
            SINGLE,
            lambda f: rewrite(f, transformer_wpe_weight=lambda t: t[:9].clone()),
            ": model.safetensors: transformer.wpe.weight is (9, 16), config.json says (32, 16)",
        ),
        (SHARDED, lambda f: shards(f)[0].write_bytes(b"{}"), ".safetensors cannot be read: "),
    ],
)
def test_what_cannot_be_used_is_refused_and_not_passed_over(
    hub: FakeHub, place: str, repository: str, breakage: Breakage, said: str
) -> None:
    folder = hub.root / repository
    count = f"{len(shards(folder)):05d}"
    breakage(folder)
    name = f"hf:{repository}@main" if place == "hub" else f"../root/{repository}"
    other = SINGLE if repository == SHARDED else SHARDED
    message = refused(name, f"hf:{other}@main")
    assert message.startswith(f"download.base: {name}: ")
    assert said.format(shards=count) in message


def test_a_full_disk_is_no_fault_of_the_network(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr("nanogpt.sources.hub.shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        download_base([f"hf:{SINGLE}@main"], Path("base"))
    assert not list(Path.cwd().iterdir())


def test_a_clone_without_its_large_files_is_told_so(hub: FakeHub) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (hub.root / SINGLE / "model.safetensors").write_text(pointer)
    assert "model.safetensors is not there, only git-lfs's word for it; run `git lfs pull`" in (
        refused(f"../root/{SINGLE}")
    )


def test_the_window_of_a_mistral_is_told(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    folder = hub.root / SHARDED
    change(folder, "config.json", model_type="mistral", sliding_window=16)
    (folder / "tokenizer.model").write_bytes(b"what tokenizer.json says as well")
    manifest = download_base([f"hf:{SHARDED}@main"], Path("base"))
    assert read_config(Path("base")).context == 16
    said = "sees the last 16 tokens alone, so its context is taken to be that and not 32"
    assert said in capsys.readouterr().err
    names = {file.name for file in manifest.files}
    assert "generation_config.json" in names
    assert "tokenizer.model" not in names


def test_folder_is_copied(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(hub.root))
    change(hub.root / SHARDED, "config.json", eos_token_id=None)
    (hub.root / SHARDED / "chat_template.jinja").write_text("{{ messages }}")
    manifest = download_base([f"~/{SHARDED}"], Path("base"))
    assert manifest.source == f"~/{SHARDED}"
    names = [file.name for file in manifest.files]
    assert "chat_template.jinja" in names
    assert "README.md" not in names
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpt2-mediun", "; did you mean gpt2-medium"),
        ("org/single", "neither a known base model nor a folder or .gguf file, seen from "),
        ("weights.bin", "'weights.bin' is neither a known base model nor a folder or .gguf file"),
        ("hf:org/single", "'hf:org/single' is not of the form hf:<model id>@<revision>; best is a"),
        ("hf:a/b/c@main", "is not of the form hf:<model id>@<revision>"),
        ("models:/plays", "is not of the form models:/<name>@<alias> or models:/<name>/<version>"),
        ("models:/plays/latest", "is not of the form models:/<name>@<alias>"),
    ],
)
def test_wrong_name_is_refused_before_anything_is_fetched(
    hub: FakeHub, name: str, said: str
) -> None:
    Path("weights.bin").touch()
    message = refused(f"hf:{SINGLE}@main", name)
    assert message.startswith("download.base: ")
    assert said in message
    assert hub.asked == []


def test_named_bases_are_pinned() -> None:
    for name, base in BASES.items():
        assert find(name) is base
        assert isinstance(base.source, Wheel) or len(base.source.revision) == 40


@pytest.mark.parametrize("text", [None, "", "{"])
def test_no_manifest(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json .*the download stage"):
        open_base(tmp_path)


def make_gguf(path: Path) -> None:
    """A small gpt2 in GGUF; its byte-pair encoding is of 300 tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=[EOT])
    bpe.train_from_iterator([__doc__ or "", Path(__file__).read_text()], trainer)
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 300}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0))
    folder = path.with_name("gguf")
    model.save_pretrained(folder)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    write_gguf(path, read_config(folder), tensors, bpe.to_str(), "F16")


def test_gguf_is_kept_and_its_configuration_and_tokenizer_laid_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_gguf(Path("small.gguf"))
    manifest = download_base(["small.gguf"], Path("base"))
    names = [file.name for file in manifest.files]
    assert names == ["config.json", "small.gguf", "tokenizer.json", "tokenizer_config.json"]
    assert Path("base/small.gguf").read_bytes() == Path("small.gguf").read_bytes()
    assert read_config(Path("base")) == read_gguf(Path("small.gguf")).config
    bpe = tokenizer.load(Path("base"))
    assert (
        bpe.decode(bpe.encode("Where a base model comes from")) == "Where a base model comes from"
    )
    Path("cut.gguf").write_bytes(Path("small.gguf").read_bytes()[:2000])
    assert "download.base: cut.gguf: cut.gguf is " in refused("cut.gguf")


@pytest.fixture
def registered(root: Path, tmp_path: Path) -> str:
    """A model of the registry; returns its run."""
    model = make_model(tmp_path / "model")
    run = begin(root / "state", 8, saved=8)
    outbox.end(run, "FINISHED", model, registration(model, 2.0))
    return str(client().get_model_version("nanogpt-plays", "1").run_id)


@pytest.mark.slow
def test_registered_model_comes_with_its_lineage(registered: str, tmp_path: Path) -> None:
    manifest = download_base(["models:/nanogpt-plays@candidate"], Path("data/base"))
    assert manifest.name == "models:/nanogpt-plays@candidate"
    assert manifest.source == "models:/nanogpt-plays/1"
    assert manifest.lineage == {"model": "nanogpt-plays", "version": "1", "run_id": registered}
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert Path("data/base", name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    message = refused("models:/nanogpt-plays/7", "models:/nanogpt-games@champion")
    assert "nanogpt-plays has no version 7: it was deleted, or there was none; it has v" in message
    assert "MLflow at sqlite:///mlflow.db has no model nanogpt-games; there are nanogpt" in message


def test_mlflow_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nanogpt.sources.fetch.WAITS", ())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:hush@127.0.0.1:{port}")
    message = refused("models:/nanogpt-plays@champion")
    assert f"MLflow at http://127.0.0.1:{port}: it does not answer" in message
    assert "hush" not in message


@network
def test_smollm2_from_the_package_index(tmp_path: Path) -> None:
    manifest = download_base(["smollm2-135m"], tmp_path / "base")
    assert sum(file.bytes for file in manifest.files) > 90e6
    config = read_config(tmp_path / "base")
    assert (config.architecture, config.n_layer, config.vocab_size) == ("llama", 30, 49152)
