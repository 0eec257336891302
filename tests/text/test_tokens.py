"""Every document arrives whole, in its split, whoever works; damaged token files are refused."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from nanogpt.common.errors import UserError
from nanogpt.text import writer
from nanogpt.text.tokens import SPLITS, HeldOut, open_tokens
from nanogpt.text.words.tokenizer import load
from nanogpt.text.words.vocabulary import char_json
from nanogpt.text.writer import tokenize
from nanogpt.text.writing import chunks, second, workers
from tests.kit.recipes import ROOT, Recipe
from tests.text.test_documents import jsonl, make_raw, parquet, replace, settings
from tests.text.test_tokenizer import EDGES, PLAY, train_vocabulary

TEXTS = [f"{i}: {text}"[:99] for i, text in enumerate([*PLAY.splitlines(), *EDGES.values()])]


def many(tmp_path: Path, **options: Any) -> Path:
    """A corpus of every kind of file, whose documents are TEXTS."""
    files: dict[str, str | bytes] = {
        "a.txt": TEXTS[0],
        "b.md": TEXTS[1],
        "c.jsonl": jsonl(TEXTS[2:12]) + "\n \n",
        "d.parquet": parquet(tmp_path, pa.array(TEXTS[12:])),
        "e.txt": "",
    }
    return make_raw(tmp_path / "raw", files, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("tokenizer", ["char", "gpt2"])
def test_documents_arrive_whole_and_in_order(tmp_path: Path, tokenizer: str) -> None:
    raw = many(tmp_path)
    train_vocabulary(raw / "vocabulary")
    manifest = tokenize(raw, tmp_path / "tokens", settings(tokenizer))

    tokens = open_tokens(tmp_path / "tokens")
    encoder = load(tokens.folder)
    assert encoder.eot == encoder.vocab_size - 1 == manifest.eot
    everything = []
    for name in SPLITS:
        ids, starts = tokens.split(name), tokens.starts(name)
        found = []
        for document in np.split(ids, starts[1:]):
            assert document[-1] == encoder.eot
            found.append(encoder.decode(document[:-1].tolist()))
        assert found == [text for text in TEXTS if text in found]
        everything += found
        split = manifest.splits[name]
        assert (split.tokens, split.documents) == (len(ids), len(starts))
        assert split.bytes == len("".join(found).encode())
        if name != "train":
            text = tokens.text(name)
            assert [text.document(i).decode() for i in range(len(found))] == found
            assert text.ends
            assert text.digest == split.text_sha256
            assert HeldOut.of("the same", *found).digest == text.digest
    assert sorted(everything) == sorted(TEXTS)
    assert not [*tokens.folder.glob("train*text*")]


def test_one_document_is_cut_as_in_nanogpt(tmp_path: Path) -> None:
    raw = make_raw(tmp_path / "raw", {"play.txt": PLAY, "nothing.txt": ""})
    tokenize(raw, tmp_path / "tokens", settings(val=0.1, test=0.0))

    characters = sorted(set(PLAY))
    ids = np.array([characters.index(character) for character in PLAY], np.uint16)
    tokens = open_tokens(tmp_path / "tokens")
    assert tokens.manifest.vocab_size == len(characters)
    assert tokens.manifest.eot is None
    assert (tokens.folder / "train.bin").read_bytes() == ids[: int(len(PLAY) * 0.9)].tobytes()
    assert (tokens.folder / "val.bin").read_bytes() == ids[int(len(PLAY) * 0.9) :].tobytes()
    assert len(tokens.split("test")) == len(tokens.starts("test")) == 0
    val = tokens.text("val")
    assert val.document(0).decode() == PLAY[int(len(PLAY) * 0.9) :]
    assert not val.ends
    assert tokens.text("test").data == b""


def test_one_document_of_bpe_has_no_end(tmp_path: Path) -> None:
    raw = make_raw(tmp_path / "raw", {"play.txt": PLAY})
    train_vocabulary(raw / "vocabulary")
    tokens = tmp_path / "tokens"
    manifest = tokenize(raw, tokens, settings("gpt2"))
    texts = [load(tokens).decode(open_tokens(tokens).split(name)) for name in SPLITS]
    assert "".join(texts) == PLAY
    assert [len(text) for text in texts[1:]] == [len(PLAY) - int(len(PLAY) * 0.9)] * 2
    assert manifest.eot == manifest.vocab_size - 1
    assert not open_tokens(tokens).text("test").ends


@pytest.mark.parametrize("tokenizer", ["char", "gpt2"])
def test_the_result_does_not_depend_on_the_workers(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = many(tmp_path)
    train_vocabulary(raw / "vocabulary")
    tokenize(raw, tmp_path / "alone", settings(tokenizer))
    monkeypatch.setattr(chunks, "CHUNK", 300)
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as executor:
        tokenize(raw, tmp_path / "three", settings(tokenizer), executor)
    assert contents(tmp_path / "three") == contents(tmp_path / "alone")
    monkeypatch.setattr(workers, "SMALL", 0)
    tokenize(raw, tmp_path / "processes", settings(tokenizer))
    assert contents(tmp_path / "processes") == contents(tmp_path / "alone")


def test_conversations(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": f"{i}?"}, answer(f"It is {i}.")] for i in range(40)]
    lines = "".join(json.dumps({"messages": chat}) + "\n" for chat in chats)
    raw = make_raw(tmp_path / "raw", {"a.jsonl": lines}, "messages")
    manifest = tokenize(raw, tmp_path / "tokens", settings())
    tokens = open_tokens(tmp_path / "tokens")
    assert manifest.parts[0].conversations
    tokenizer = load(tokens.folder)
    for name in SPLITS:
        counted, ids = tokens.counted(name), tokens.split(name)
        assert counted is not None
        said = tokenizer.decode(ids[counted == 1]).split("<|endoftext|>")[:-1]
        assert len(said) == manifest.splits[name].documents > 0
        assert all(text.startswith("It is ") for text in said)
        assert sum(len(text) for text in said) == manifest.splits[name].bytes
        assert counted.sum() == manifest.splits[name].counted < len(ids)
    assert json.loads(tokens.text("val").document(0)) in chats


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_ids_of_four_bytes_where_two_do_not_suffice(tmp_path: Path) -> None:
    text = "".join(chr(point) for point in range(0x12000) if not 0xD800 <= point < 0xE000)
    raw = make_raw(tmp_path / "raw", {"all.txt": text})
    assert tokenize(raw, tmp_path / "tokens", settings()).dtype == "uint32"
    ids = open_tokens(tmp_path / "tokens").split("test")
    assert load(tmp_path / "tokens").decode(ids) == text[-len(ids) :]


def test_a_fault_in_another_process_is_told_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SMALL", 0)
    raw = make_raw(tmp_path / "raw", {"a.txt": "x", "b.txt": b"\xff"})
    with pytest.raises(UserError, match=r"b\.txt is not UTF-8 at byte 0"):
        tokenize(raw, tmp_path / "tokens", settings())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_a_killed_worker_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(characters: set[str], eot: bool) -> str:
        for process in psutil.Process().children():
            if "spawn_main" in " ".join(process.cmdline()):
                process.kill()
        return char_json(characters, eot)

    monkeypatch.setattr(workers, "SMALL", 0)
    monkeypatch.setattr(writer, "char_json", kill)  # comes between the two readings
    with pytest.raises(OSError, match="a worker was killed"):
        tokenize(many(tmp_path), tmp_path / "tokens", settings())


def test_gpt2_needs_its_vocabulary(tmp_path: Path) -> None:
    raw = make_raw(tmp_path / "raw", {"a.txt": PLAY})
    with pytest.raises(UserError, match=r"encoder\.json does not exist; run the download stage"):
        tokenize(raw, tmp_path / "tokens", settings("gpt2"))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    tokenize(many(tmp_path), tmp_path / "tokens", settings())
    return tmp_path / "tokens"


def test_a_split_cannot_be_changed(tokens: Path) -> None:
    ids = open_tokens(tokens).split("train")
    assert isinstance(ids, np.memmap)
    assert ids.dtype == np.uint16
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1


def test_the_digest_follows_the_content(tokens: Path, tmp_path: Path) -> None:
    tokenize(tmp_path / "raw", tmp_path / "same", settings())
    tokenize(tmp_path / "raw", tmp_path / "other", settings(seed=1))
    digests = [open_tokens(tmp_path / name).digest for name in ("tokens", "same", "other")]
    assert digests[0] == digests[1] != digests[2]


def test_an_unknown_split(tokens: Path) -> None:
    with pytest.raises(UserError, match="has no split 'trian'; it has train, val, test"):
        open_tokens(tokens).split("trian")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", None, r"manifest\.json does not exist; run the tokenize stage first"),
        ("manifest.json", '{"corpus": "raw"}', r"manifest\.json is not a manifest of the token"),
        ("train.bin", None, r"train\.bin is missing; run the tokenize stage again"),
        ("val.bin", "", r"val\.bin is 0 bytes long, not \d+; run the tokenize stage again"),
        ("test.documents.bin", "1234567", r"test\.documents\.bin is 7 bytes long, not"),
        ("test.text", None, r"test\.text is missing; run the tokenize stage again"),
        ("val.texts.bin", "1234567", r"val\.texts\.bin is 7 bytes long, not"),
        ("tokenizer.json", "{}", r"tokenizer\.json is not the one that made these tokens"),
        ("tokenizer.json", None, r"tokenizer\.json is not the one that made these tokens"),
    ],
)
def test_a_folder_that_holds_no_tokens(
    tokens: Path, name: str, content: str | None, message: str
) -> None:
    replace(tokens / name, content)
    with pytest.raises(UserError, match=message):
        open_tokens(tokens)


def test_another_text_of_the_same_length(tokens: Path) -> None:
    path = tokens / "val.text"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(UserError, match=r"val\.text is not what its tokens were made of; run the"):
        open_tokens(tokens).text("val")


def test_a_text_is_not_called_by_the_folder_it_lay_in(tokens: Path) -> None:
    path = tokens / "manifest.json"
    about = json.loads(path.read_text())
    about["parts"][0]["name"] = "/home/me/a/b.jsonl"
    path.write_text(json.dumps(about))
    assert open_tokens(tokens).text("test").name == "b.jsonl, test"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dtype", "uint32", r"train\.bin is [\d,]+ bytes long, not"),
        ("dtype", "float16", "is not a manifest of the tokenize stage"),
        ("splits", {"train": {"tokens": 1, "documents": 1}}, "is not a manifest of the tokenize"),
    ],
)
def test_a_manifest_of_other_tokens(tokens: Path, key: str, value: Any, message: str) -> None:
    path = tokens / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=message):
        open_tokens(tokens)


def test_the_stage(tmp_path: Path) -> None:
    recipe = Recipe(tmp_path / "recipe", tokenize__test=0.1)
    recipe.data.mkdir(parents=True)
    many(recipe.data)
    said = recipe.run("tokenize")
    assert f"  val: {len(open_tokens(recipe.data / 'tokens').split('val')):,} tokens" in said

    (recipe.data / "raw" / "manifest.json").unlink()
    (said,) = recipe.run("tokenize", code=2).splitlines()
    assert said.startswith("tokenize: ")
    assert "manifest.json does not exist; run the download stage first" in said


def test_a_killed_parent_takes_its_workers_along(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import time\n"
        "from nanogpt.text.writing.workers import workers\n"
        "if __name__ == '__main__':\n"
        "    with workers(None, 1 << 40, 2) as run:\n"
        "        next(run(print, ['ready']))\n"
        "        time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-u", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"ready\n"
        workers = psutil.Process(parent.pid).children(recursive=True)
        parent.send_signal(signal.SIGKILL)
    assert workers
    assert psutil.wait_procs(workers, timeout=10)[1] == []


@pytest.mark.parametrize("size", [1, 40])
def test_texts_are_encoded_in_batches_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    texts = [line for line in PLAY.splitlines() if line][:60]
    raw = make_raw(tmp_path / "raw", {"a.jsonl": jsonl(texts)})
    tokenize(raw, tmp_path / "together", settings())
    monkeypatch.setattr(second, "BATCH", size)
    tokenize(raw, tmp_path / "apart", settings())
    assert contents(tmp_path / "apart") == contents(tmp_path / "together")
