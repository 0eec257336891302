"""A corpus that cannot be used is refused with the place of its first fault."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.common.errors import UserError
from nanogpt.common.manifest import File, write_manifest
from nanogpt.settings import TextField, Tokenize
from nanogpt.text import documents
from nanogpt.text.documents import Piece
from nanogpt.text.raw import Raw, RawPart, Reading
from nanogpt.text.writer import tokenize


def settings(
    tokenizer: str = "char", val: float = 0.1, test: float = 0.1, seed: int = 1337
) -> Tokenize:
    given = {"tokenizer": tokenizer, "val": val, "test": test, "seed": seed}
    rest = {"vocab_size": None, "near_duplicates": "ignore", "expect": None}
    return Tokenize.model_validate(given | rest)


def reading(text_field: TextField = "text", **options: Any) -> Reading:
    """As the shipped recipes read, but for some options."""
    usual = {"separator": None, "newlines": "keep", "bad_documents": "refuse"}
    return Reading(text_field=text_field, **(usual | options))


def make_raw(
    folder: Path, files: dict[str, str | bytes], text_field: TextField = "text", **options: Any
) -> Path:
    """What the download stage would make of these files."""
    (folder / "corpus").mkdir(parents=True)
    entries = []
    for name in sorted(files):
        content = files[name]
        data = content.encode() if isinstance(content, str) else content
        (folder / "corpus" / name).write_bytes(data)
        entries.append(File(name=f"corpus/{name}", bytes=len(data), sha256="0" * 64))
    about = {"licence": "MIT", "source": "my shelf"}
    part = RawPart(name="mine", **about, reading=reading(text_field, **options), files=len(files))
    manifest = Raw(
        corpus="mine",
        **about,
        parts=(part,),
        files=tuple(entries),
        digest="1" * 64,
        vocabulary=None,
    )
    write_manifest(folder, manifest)
    return folder


def jsonl(texts: list[str], field: str = "text") -> str:
    return "".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts))


def parquet(folder: Path, column: pa.Array, field: str = "text", rows: int = 3) -> bytes:
    path = folder / "table.parquet"
    pq.write_table(pa.table({"other": [0] * len(column), field: column}), path, row_group_size=rows)
    return path.read_bytes()


def replace(path: Path, content: str | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_text(content)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=9), st.integers(1, 99))
def test_a_jsonl_can_be_read_in_pieces_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int
) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    data = "".join(json.dumps({"t": text}, ensure_ascii=False) + "\n" for text in texts).encode()
    (folder / "a.jsonl").write_bytes(data)
    pieces = [Piece("a.jsonl", i, min(i + size, len(data)), 0) for i in range(0, len(data), size)]
    found = [text for piece in pieces for text in documents.documents(folder, reading("t"), piece)]
    assert found == [text for text in texts if text.strip()]


TWO = jsonl(["To be", "or not"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b"Who\xff's there?"}, r"a\.txt is not UTF-8 at byte 3 "),
        (
            {"a.jsonl": TWO.encode() + b'{"text": "\xff"}'},
            rf"a\.jsonl, line 3, is not UTF-8 at byte {len(TWO) + 10} ",
        ),
        ({"a.jsonl": TWO + "{"}, r"a\.jsonl, line 3, cannot be read as JSON: Expecting"),
        (
            {"a.jsonl": TWO + '{"text": "\\ud83d"}'},
            r"a\.jsonl, line 3, cannot be read: .*surrogate",
        ),
        ({"a.jsonl": TWO + '{"body": "x"}'}, r"a\.jsonl, line 3, has no text in a field 'text'"),
        ({"a.jsonl": TWO + '{"text": 5}'}, r"a\.jsonl, line 3, has no text in a field 'text'"),
        ({"a.jsonl": TWO + '["x"]'}, r"a\.jsonl, line 3, is no JSON object that has a text"),
        ({"a.parquet": b"PAR1"}, r"a\.parquet is not a parquet file"),
        (
            {"a.pdf": "x"},
            r"a\.pdf is not one of \.txt \.md .*, all but \.parquet also",
        ),
        ({"a.txt": "", "b.jsonl": "\n\n" + jsonl([""])}, "the corpus mine has no text"),
        ({}, "the corpus mine has no text"),
        (
            {"a.txt": "x", "b.txt": "y"},
            "has 2 characters in 2 documents, too few for tokenize.val 0.1",
        ),
        ({"a.txt": "T"}, "has 1 character in 1 document, too few for tokenize.val 0.1"),
        ({"a.txt": "To be"}, "has 5 characters in 1 document, too few for tokenize.val 0.1"),
    ],
)
def test_a_corpus_that_cannot_be_used(
    tmp_path: Path, files: dict[str, str | bytes], message: str
) -> None:
    raw = make_raw(tmp_path / "raw", files)
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "older").touch()
    with pytest.raises(UserError, match=message):
        tokenize(raw, tmp_path / "tokens", settings())
    assert [path.name for path in tmp_path.iterdir() if path != raw] == ["tokens"]
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == ["older"]


def test_copies_that_leave_too_little_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = make_raw(tmp_path / "raw", {"a.jsonl": jsonl(["To be"] * 9)})
    with pytest.raises(UserError, match="has 5 characters in 1 document"):
        tokenize(raw, tmp_path / "tokens", settings())
    assert "8 of 9 documents repeat an earlier one, word for word" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("column", "field", "message"),
    [
        (
            pa.array([1, 2, 3, 4]),
            "text",
            r"row 0 .*, holds 1 in its column 'text', not a text; its col",
        ),
        (
            pa.array([b"x", b"y"]),
            "text",
            r"row 0 \(counted from 0\), holds b'x' in its column 'text'",
        ),
        (
            pa.array(["x"]),
            "body",
            "no column 'text'; its columns: other \\(.*\\), body \\('x'\\); name",
        ),
        (pa.array([b"x", b"\xff"]).view(pa.string()), "text", "row 1 .* is not UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used(
    tmp_path: Path, column: pa.Array, field: str, message: str
) -> None:
    raw = make_raw(tmp_path / "raw", {"a.parquet": parquet(tmp_path, column, field)})
    with pytest.raises(UserError, match=message):
        tokenize(raw, tmp_path / "tokens", settings())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", None, r"manifest\.json does not exist; run the download stage first"),
        ("manifest.json", "{}", r"manifest\.json is not a manifest of the download stage"),
        ("manifest.json", "[", r"manifest\.json is not a manifest of the download stage"),
        ("corpus/a.txt", None, r"a\.txt is missing; run the download stage again"),
        ("corpus/a.txt", "To", r"a\.txt is 2 bytes long, not 9; run the download stage again"),
    ],
)
def test_a_folder_that_is_not_raw(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    raw = make_raw(tmp_path / "raw", {"a.txt": "To be, or"})
    replace(raw / name, content)
    with pytest.raises(UserError, match=message):
        tokenize(raw, tmp_path / "tokens", settings())
