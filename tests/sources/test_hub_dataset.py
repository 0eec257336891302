"""Data sets of the Hugging Face hub: looked at first, fetched once, on from where it broke off."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanogpt.common.errors import UserError
from nanogpt.sizing.ahead import before_download
from nanogpt.sources.fetch import fetch
from nanogpt.sources.hub_dataset import HubDataset
from tests.kit.fake_hub import FakeHub, commit, used
from tests.kit.recipes import quick

ID = "who/what"
AT = commit(f"datasets/{ID}")
FILE = "data/train-00000-of-00001.parquet"
HEAD = """---
configs:
- config_name: small
  data_files:
  - split: train
    path: data/*.parquet
---
"""


def data_set(**fields: str) -> HubDataset:
    return HubDataset(ID, "small", "main", tuple(fields.values()) or ("text",))


def fill(hub: FakeHub, rows: int = 2500) -> Path:
    """A data set of one file, in which rows are large enough for a file of some blocks."""
    texts = [f"text {i}" for i in range(rows)]
    columns = {"text": texts, "url": ["u"] * rows, "number": list(range(rows))}
    columns |= {"list": [["a"]] * rows, "meta": [{"title": text} for text in texts]}
    path = hub.root / "datasets" / ID / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    (hub.root / "datasets" / ID / "README.md").write_text(HEAD)
    return path


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from datasets import config

    with used(tmp_path, monkeypatch) as hub:
        monkeypatch.setattr(config, "HF_ENDPOINT", hub.address)
        fill(hub)
        yield hub


def fetched(hub: FakeHub) -> int:
    return hub.asked.count(f"GET /datasets/{ID}/resolve/{AT}/{FILE}")


def test_it_becomes_shards_of_its_text(data: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanogpt.sources.hub_dataset.SHARD", 15_000)
    assert fetch("x", [data_set()], Path("x")) == f"hf:{ID}:small@{AT}"
    shards = [pq.read_table(path) for path in sorted(Path("x").iterdir())]
    assert [shard.num_rows for shard in shards] == [2000, 500]
    assert all(shard.column_names == ["text"] for shard in shards)
    texts = [text for shard in shards for text in shard["text"].to_pylist()]
    assert texts == [f"text {i}" for i in range(2500)]


def test_it_is_fetched_once(data: FakeHub) -> None:
    fetch("x", [data_set()], Path("x"))
    asked = fetched(data)
    fetch("y", [data_set(a="meta.title", b="url")], Path("y"))
    assert fetched(data) == asked == 1
    assert pq.read_table("y/00000.parquet").column_names == ["meta", "url"]


def test_it_goes_on_where_it_broke_off(data: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (data.root / "datasets" / ID / FILE).stat().st_size
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    data.faults[Path(FILE).name] = "lost once"
    fetch("x", [data_set()], Path("x"))
    (part,) = data.parts
    assert 0 < int(part.removeprefix("bytes=").rstrip("-")) < size
    assert pq.read_table("x/00000.parquet").num_rows == 2500


def test_a_wrong_field_is_refused_before_it_is_fetched(data: FakeHub) -> None:
    for field, says in {
        "body": "row 0 .*, has no text in a field 'body'; its fields: text \\('text 0'\\), url",
        "number": "row 0 .*, has no text in a field 'number'",
        "list": "row 0 .*, has no text in a field 'list'",
        "meta.name": "row 0 .*, has no text in a field 'meta.name'",
    }.items():
        settings = quick(download__corpus=f"hf:{ID}:small@main", download__text_field=field)
        with pytest.raises(UserError, match=says):
            before_download(settings)
    assert not Path("cache", "datasets--who--what", "blobs").exists()
    good = quick(download__corpus=f"hf:{ID}:small@main", download__text_field="meta.title")
    assert before_download(good) == ""


def test_one_without_rows_is_refused(data: FakeHub) -> None:
    fill(data, rows=0)
    with pytest.raises(UserError, match="its train split has no rows"):
        fetch("x", [data_set()], Path("x"))
    lines = data.root / "datasets" / "who" / "lines"
    lines.mkdir()
    (lines / "train.jsonl").write_text("")
    with pytest.raises(UserError, match="its train split has no rows"):
        fetch("x", [HubDataset("who/lines", None, "main")], Path("x"))


def test_what_the_hub_does_not_have(data: FakeHub) -> None:
    with pytest.raises(UserError, match="the hub has no such data set"):
        fetch("x", [HubDataset("who/else", None, "main")], Path("x"))
    with pytest.raises(UserError, match="the data set has no revision 'v2'"):
        fetch("x", [HubDataset(ID, "small", "v2")], Path("x"))


def test_a_full_disk_is_no_fault_of_the_hub(data: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", write)
    with pytest.raises(OSError, match="No space left"):
        fetch("x", [data_set()], Path("x"))
