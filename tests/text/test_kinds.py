"""Every kind of file in which people have documents: read whole, in pieces, packed, and damaged."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.common.errors import UserError
from nanogpt.common.manifest import File
from nanogpt.settings import Fields
from nanogpt.text.documents import (
    REST,
    Document,
    Piece,
    Text,
    documents,
    following,
    pieces,
    texts,
)
from nanogpt.text.kinds.found import MARK
from nanogpt.text.raw import Reading
from nanogpt.text.talks.chat import Conversation, Message
from tests.text.test_documents import reading

PLAIN = reading()
SKIP = reading(bad_documents="skip")
Pack = Callable[[bytes], bytes]


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, row_group_size=2)
    return bytes(sink.getvalue().to_pybytes())


def as_csv(*rows: list[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


def found(here: Path, name: str, data: bytes, read: Reading) -> list[Text]:
    (here / name).write_bytes(data)
    file = File(name=name, bytes=len(data), sha256="")
    return [text for piece in pieces(here, read, [file]) for text in texts(here, read, piece)]


def whole(here: Path, name: str, data: bytes, read: Reading = PLAIN) -> list[Document]:
    (here / name).write_bytes(data)
    file = File(name=name, bytes=len(data), sha256="")
    return [one for piece in pieces(here, read, [file]) for one in documents(here, read, piece)]


def refused(here: Path, name: str, data: bytes, read: Reading = PLAIN) -> str:
    with pytest.raises(UserError) as caught:
        whole(here, name, data, read)
    return str(caught.value).removeprefix(f"{here}/")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", b'[{"text": "a\\nb"}, {"n": [1, {}], "text": "c"}]'),
        ("A.JSON", b'\xef\xbb\xbf[\n  {"text": "a\\nb"},\n  "c"\n]\n'),
        ("a.jsonl", b'{"text": "a\\nb"}\n"c"\n'),
        ("a.csv", b'id,text\n1,"a\nb"\n2,c\n'),
        ("A.Csv", b'\xef\xbb\xbftext,id\r\n"a\nb",1\r\n\r\n"c",2'),
    ],
)
@pytest.mark.parametrize("packing", [None, gzip.compress, zstd], ids=["plain", "gz", "zst"])
def test_two_documents(tmp_path: Path, name: str, data: bytes, packing: Pack | None) -> None:
    if packing:
        half = len(data) // 2  # of several members or frames, as parallel packers write them
        data = packing(data[:half]) + packing(b"") + packing(data[half:])
        name += ".gz" if packing is gzip.compress else ".ZST"
    assert whole(tmp_path, name, data) == ["a\nb", "c"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a\nb", "c"], pa.large_string()),
        pa.array(["a\nb", "c"], pa.string_view()),
        pa.array(["a\nb", "c"]).dictionary_encode(),
        pa.array(["a\nb", "c", None, ""]),
    ],
)
def test_columns_of_texts(tmp_path: Path, column: pa.Array) -> None:
    assert whole(tmp_path, "a.PARQUET", parquet(text=column)) == ["a\nb", "c"]


@pytest.mark.parametrize("data", [b"", b" \n", b"[]", b" [ ] "])
def test_a_json_may_have_no_document(tmp_path: Path, data: bytes) -> None:
    assert whole(tmp_path, "a.json", data) == []


def test_one_object_is_one_document(tmp_path: Path) -> None:
    assert whole(tmp_path, "a.json", b'{\n "text": "a"\n}\n') == ["a"]
    assert refused(tmp_path, "a.json", b'{"body": 1}').startswith("a.json has no text in a field")


MORE = st.sampled_from([None, 1.5, float("nan"), 10**30, 'é\\"]}', {"a": [{}, []]}, [[""]]])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(TEXTS, MORE), max_size=6), st.booleans(), st.integers(1, 40))
def test_an_array_is_read_in_blocks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, Any]], ascii: bool, size: int
) -> None:
    values = [{"x": more, "text": text} for text, more in rows]
    data = json.dumps(values, indent=size % 3, ensure_ascii=ascii).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogpt.text.kinds.array.BLOCK", size)
        here = tmp_path_factory.mktemp("array")
        assert whole(here, "a.json", data) == [text for text, _ in rows]


@given(st.lists(TEXTS.map(lambda text: text.replace("\0", "0")), min_size=1, max_size=6))
def test_what_python_writes_as_csv_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str]
) -> None:
    data = as_csv(["id", "text"], *([str(i), text] for i, text in enumerate(rows)))
    assert whole(tmp_path_factory.mktemp("csv"), "a.csv", data) == rows


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"text": "a"}\n{"text": "b"}\n', "a.json cannot be read as JSON: more than one value;"),
        (
            b'[{"text": "a"}',
            "a.json, element 1 (counted from 0), cannot be read as JSON: the array",
        ),
        (b'["a" "b"]', "element 1 (counted from 0), cannot be read as JSON: '\"' stands where ','"),
        (b'["a", ]', "a.json, element 1 (counted from 0), cannot be read as JSON: Expecting"),
        (b'["a"] x', "a.json cannot be read as JSON: 'x' stands after the end of the array"),
        (b'["a", "b]', "element 1 (counted from 0), cannot be read as JSON: Unterminated string"),
        (b'["a", "\\ud83d"]', "element 1 (counted from 0), cannot be read: "),
        (b'["a", {"text": NaN}]', "element 1 (counted from 0), has no text in a field 'text'; its"),
        (b"[" * 200_000, "element 0 (counted from 0), cannot be read as JSON: maximum recursion"),
        (b'["a", "\xff"]', "a.json is not UTF-8 at byte 7 (counted from 0); convert it"),
        ('["a"]'.encode("utf-16"), "it looks like UTF-16: `iconv -f UTF-16 -t UTF-8`"),
        (b"12", "a.json is no JSON object that has a text in a field 'text'"),
        (b'[{"body": "a"}]', "has no text in a field 'text'; its fields: body ('a'); name the"),
    ],
)
def test_a_json_that_cannot_be_read(tmp_path: Path, data: bytes, says: str) -> None:
    assert says in refused(tmp_path, "a.json", data)


def test_a_fault_in_a_later_block_has_its_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogpt.text.kinds.array.BLOCK", 5)
    data = json.dumps(["é" * 50, "a"], ensure_ascii=False).encode()
    broken = data[:-2] + b"\xff" + data[-2:]
    assert f"is not UTF-8 at byte {len(data) - 2} " in refused(tmp_path, "a.json", broken)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"id;text\n1;a\n", "a.csv has semicolons between its cells, not commas"),
        (b"id\ttext\n1\ta\n", "a.csv has tabs between its cells, not commas"),
        (b"id,body\n1,a\n", "a.csv has no column 'text'; its columns: id (''), body (''); name"),
        (b"id,txet\n1,a\n", "in download.text_field; did you mean txet?"),
        (b"id,text\n1,a\n2,b,c\n", "a.csv, line 3, cannot be read as CSV: it has 3 cells below 2"),
        (
            b'id,text\n1,"a\nb"\n2,"c',
            "a.csv, line 4, cannot be read as CSV: unexpected end of data",
        ),
        (b'id,text\n1,"a"b\n', "a.csv, line 2, cannot be read as CSV: "),
        (b"id,text\n1,a\n2,\xff\n", "a.csv, line 3, is not UTF-8 in its column 'text'; convert it"),
        (b"text,text\na,b\n", "a.csv has 2 columns 'text'"),
        (b"id,text\r1,a\r", "a.csv cannot be read as CSV: new-line character seen"),
        ("id,text\n1,a\n".encode("utf-16"), "it looks like UTF-16: `iconv"),
    ],
)
def test_a_csv_that_cannot_be_read(tmp_path: Path, data: bytes, says: str) -> None:
    assert says in refused(tmp_path, "a.csv", data)


LINES = b"".join(json.dumps({"text": f"{i} " * 50}).encode() + b"\n" for i in range(500))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:-20], "Compressed file ended before"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:-6] + b"wrong!", "CRC check failed"),
        ("a.jsonl.gz", b"abc", "Not a gzipped file"),
        ("a.jsonl.zst", zstd(LINES)[:-5], "it ends before its end"),
        ("a.jsonl.zst", b"abcdefgh", "Unknown frame descriptor"),
        ("a.jsonl.zst", zstd(LINES) + b"abcdefgh", "Unknown frame descriptor"),
    ],
)
def test_what_cannot_be_unpacked(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    said = refused(tmp_path, name, data)
    assert said.startswith(
        f"{name} cannot be unpacked ({'gzip' if 'gz' in name else 'zstd'}) after"
    )
    assert reason in said
    *good, bad = found(tmp_path, name, data, SKIP)
    assert bad.fault == f"damaged{REST}"
    assert [text.document for text in good] == [f"{i} " * 50 for i in range(len(good))]


META = {"meta": {"text": "a", "by": {"name": "b"}}, "meta.text": None, "c": None}


@pytest.mark.parametrize(
    ("field", "row", "expected"),
    [
        ("meta.text", {"meta": {"text": "a"}}, "a"),
        ("meta.by.name", META, "b"),
        ("meta.text", META | {"meta.text": "its own name"}, "its own name"),
        ("a.b.c", {"a.b": {"c": "x"}, "a": {"b": {"c": "y"}}}, "x"),
        ("meta.text", {"meta": None}, None),
        (("title", "body"), {"title": "a", "body": "b\n"}, "a\n\nb\n"),
        (("title", "meta.text"), {"title": "a", "meta": {"text": "b"}}, "a\n\nb"),
        (("title", "body"), {"title": "", "body": "b"}, "b"),
        (("title", "body"), {"title": None, "body": None}, None),
    ],
)
def test_fields(tmp_path: Path, field: Any, row: dict[str, Any], expected: str | None) -> None:
    read, line = reading(field), json.dumps(row).encode()
    assert [text[1:3] for text in found(tmp_path, "a.jsonl", line, read)] == [(expected, None)]
    assert [text[1:3] for text in found(tmp_path, "a.json", line, read)] == [(expected, None)]
    table = parquet(**{name: [value] for name, value in row.items()})
    assert [text[1:3] for text in found(tmp_path, "a.parquet", table, read)] == [(expected, None)]


@pytest.mark.parametrize(
    ("row", "expected", "lacks"),
    [
        ({"title": None, "body": "b"}, "b", "no 'title': made of the other fields"),
        ({"body": "b"}, "b", "no 'title': made of the other fields"),
        ({"title": "a", "other": 1}, "a", "no 'body': made of the other fields"),
    ],
)
def test_a_part_that_lacks_is_told(
    tmp_path: Path, row: dict[str, Any], expected: str, lacks: str
) -> None:
    (text,) = found(tmp_path, "a.jsonl", json.dumps(row).encode(), reading(("title", "body")))
    assert (text.document, text.fault) == (expected, lacks)


@pytest.mark.parametrize(
    ("field", "row", "says"),
    [
        ("meta.text", {"meta": "a"}, "has no text in a field 'meta.text'; its fields: meta ('a')"),
        ("meta.text", {"meta": {"txt": 1}}, "has no text in a field 'meta.text'"),
        (("title", "body"), {"other": "a"}, "has no text in a field 'title'; its fields: other"),
        (("title", "body"), {"title": 5, "body": "b"}, "has no text in a field 'title'"),
        ("messages", {"text": "a"}, "has no text in a field 'messages'; its fields: text ('a')"),
        ("messages", {"messages": []}, "has no message in 'messages'"),
    ],
)
def test_fields_that_are_not_there(
    tmp_path: Path, field: Any, row: dict[str, Any], says: str
) -> None:
    line = json.dumps(row).encode()
    assert f"a.jsonl, line 1, {says}" in refused(tmp_path, "a.jsonl", line, reading(field))


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (pa.array([["a"], ["b"]]), "row 0 (counted from 0), holds ['a'] in its column 'text', not"),
        (pa.array([{"a": "b"}]), "row 0 (counted from 0), holds {'a': 'b'} in its column 'text'"),
    ],
)
def test_a_column_that_is_no_text(tmp_path: Path, column: pa.Array, says: str) -> None:
    assert f"a.parquet, {says}" in refused(tmp_path, "a.parquet", parquet(text=column))


TALK = Conversation((Message("user", "2 + 2?"), Message("assistant", "4")))
TURNS = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
PAIR = Fields(prompt="q", completion="a")


@pytest.mark.parametrize(
    ("name", "data", "field"),
    [
        ("a.jsonl", json.dumps({"messages": TURNS}).encode(), "messages"),
        ("a.json", json.dumps([{"in": {"turns": TURNS}}]).encode(), Fields(messages="in.turns")),
        ("a.parquet", parquet(messages=[TURNS]), "messages"),
        ("a.csv", as_csv(["messages"], [json.dumps(TURNS)]), "messages"),
        ("a.csv", b"prompt,completion\n2 + 2?,4\n", ("prompt", "completion")),
        ("a.jsonl.gz", gzip.compress(b'{"q": "2 + 2?", "a": "4"}', mtime=0), PAIR),
        ("a.parquet", parquet(q=["2 + 2?"], a=["4"]), PAIR),
    ],
)
def test_conversations(tmp_path: Path, name: str, data: bytes, field: Any) -> None:
    assert whole(tmp_path, name, data, reading(field)) == [TALK]


@pytest.mark.parametrize(
    ("separator", "data", "expected"),
    [
        ("<|endoftext|>", b"a\n<|endoftext|>b<|endoftext|><|endoftext|>\n", ["a\n", "b"]),
        ("\n\n", b"a\nb\n\n\n\n\nc\n\n", ["a\nb", "c"]),
        ("\n\n", b"a\r\nb\r\n\r\n\r\nc\r\n", ["a\r\nb", "c\r\n"]),
        ("\n---\n", b"a\n---\nb\r\n---\r\nc", ["a", "b", "c"]),
        ("%", b"\xef\xbb\xbfa%b", ["a", "b"]),
        ("§", "a§b".encode(), ["a", "b"]),
    ],
)
def test_a_separator_ends_a_document(
    tmp_path: Path, separator: str, data: bytes, expected: list[str]
) -> None:
    read = reading(separator=separator)
    assert whole(tmp_path, "a.txt", data, read) == expected
    assert whole(tmp_path, "a.md.gz", gzip.compress(data, mtime=0), read) == expected
    assert whole(tmp_path, "a.txt.zst", zstd(data), read) == expected


ANY = st.text(st.sampled_from("ab-\n\r é€𝄞"), max_size=60)
CUTS = st.integers(1, 9)


def read_in(here: Path, data: bytes, size: int, read: Reading) -> list[Text]:
    (here / "a.txt").write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogpt.text.documents.PIECE", size)
        patch.setattr("nanogpt.text.kinds.plain.BLOCK", size)
        file = File(name="a.txt", bytes=len(data), sha256="")
        some = [*pieces(here, read, [file])]
        for piece, after in pairwise(some):
            assert following(here, read, piece) == (after if read.separator is None else None)
        assert following(here, read, some[-1]) is None
        return [text for piece in some for text in texts(here, read, piece)]


@given(ANY, CUTS, st.sampled_from(["\n\n", "--", "---", "ab", "aba", "\n--\n"]))
def test_a_separated_text_can_be_read_in_pieces_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int, separator: str
) -> None:
    here, data, read = tmp_path_factory.mktemp("cut"), text.encode(), reading(separator=separator)
    found = read_in(here, data, size, read)
    assert found == [*texts(here, read, Piece("a.txt", 0, len(data), len(data)))]
    if separator == "ab":
        split = [part for part in text.split("ab") if part.strip()]
        assert [one.document for one in found] == split


@given(ANY, CUTS, st.booleans())
def test_pieces_of_a_text_are_the_text(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int, unix: bool
) -> None:
    here, read = tmp_path_factory.mktemp("cut"), reading(newlines="unix" if unix else "keep")
    found = read_in(here, text.encode(), size, read)
    expected = text.replace("\r\n", "\n").replace("\r", "\n") if unix else text
    assert "".join(str(one.document) for one in found) == expected
    assert [one.goes_on for one in found] == [False] + [True] * (len(found) - 1)


@given(ANY, st.integers(4, 12), st.booleans())
def test_a_text_has_the_same_pieces_packed_or_marked(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int, unix: bool
) -> None:
    """So that copies of a long text are found, which is compared in pieces."""
    here, read = tmp_path_factory.mktemp("same"), reading(newlines="unix" if unix else "keep")
    parts = [one.document for one in read_in(here, text.encode(), size, read)]
    marked = [one.document for one in read_in(here, MARK + text.encode(), size, read)]
    assert marked in (parts, [*parts, ""])
    (here / "b.txt.gz").write_bytes(gzip.compress(MARK + text.encode(), mtime=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogpt.text.kinds.plain.PIECE", size)
        packed = [*texts(here, read, Piece("b.txt.gz", 0, 0, 0))]
    assert [one.document for one in packed] == parts
    assert [one.goes_on for one in packed] == [False] + [True] * (len(packed) - 1)


def test_line_ends_of_windows_go_where_that_is_asked(tmp_path: Path) -> None:
    read = reading(newlines="unix")
    for name, data in {
        "a.txt": b"a\r\nb\rc\n",
        "a.txt.gz": gzip.compress(b"a\r\nb\rc\n", mtime=0),
        "a.jsonl": b'{"text": "a\\r\\nb\\rc\\n"}\r\n',
        "a.csv": b'text\r\n"a\r\nb\rc\n"\r\n',
        "a.parquet": parquet(text=["a\r\nb\rc\n"]),
    }.items():
        assert whole(tmp_path, name, data, read) == ["a\nb\nc\n"]
    talk = {"prompt": "a\r\nb", "completion": "c\r"}
    (found,) = whole(
        tmp_path,
        "a.jsonl",
        json.dumps(talk).encode(),
        reading(("prompt", "completion"), newlines="unix"),
    )
    assert found == Conversation((Message("user", "a\nb"), Message("assistant", "c\n")))


@pytest.mark.parametrize(
    ("name", "data", "expected", "faults"),
    [
        ("a.txt", b"a\xff", [], ["not UTF-8"]),
        (
            "a.jsonl",
            b'{"text": "a"}\n{\n{"body": 1}\n\xff\n[1]\n{"text": 2}\n{"text": "\\ud800"}\n"b"',
            ["a", "b"],
            [
                *("broken JSON", "no such field", "not UTF-8"),
                *("not an object", "not a text", "half a character"),
            ],
        ),
        (
            "a.json",
            b'["a", 5, {"text": 5}, "b", {]',
            ["a", "b"],
            ["not an object", "not a text", f"broken JSON{REST}"],
        ),
        (
            "a.csv",
            b'text,n\na,1\nb\n"c"d,1\n\xff,2\ne,3\n',
            ["a", "e"],
            ["broken CSV", "broken CSV", "not UTF-8"],
        ),
        (
            "a.parquet",
            parquet(text=pa.array([b"a", b"\xff", b"b"]).view(pa.string())),
            ["a", "b"],
            ["not UTF-8"],
        ),
        ("a.parquet", b"PAR1", [], [f"damaged{REST}"]),
        ("a.parquet", parquet(body=["a"]), [], [f"no such field{REST}"]),
    ],
)
def test_bad_documents_are_skipped_where_that_is_asked(
    tmp_path: Path, name: str, data: bytes, expected: list[str], faults: list[str]
) -> None:
    some = found(tmp_path, name, data, SKIP)
    assert [text.document for text in some if text.fault is None] == expected
    assert [text.fault for text in some if text.fault] == faults
    assert all(text.document is None for text in some if text.fault)


def test_a_conversation_that_is_none_is_skipped(tmp_path: Path) -> None:
    lines = [{"messages": TURNS}, {"messages": TURNS[:1]}, {"messages": None}]
    data = "\n".join(map(json.dumps, lines)).encode()
    some = found(tmp_path, "a.jsonl", data, reading("messages", bad_documents="skip"))
    assert [text[1:3] for text in some] == [
        (TALK, None),
        (None, "not a conversation"),
        (None, None),
    ]


def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    sink, column = pa.BufferOutputStream(), pa.array(["a"])
    pq.write_table(pa.Table.from_arrays([column, column], names=["text", "text"]), sink)
    data = bytes(sink.getvalue().to_pybytes())
    assert "has 2 columns 'text'" in refused(tmp_path, "a.parquet", data)


def test_what_is_packed_in_a_wrong_way_is_refused(tmp_path: Path) -> None:
    assert "a.parquet.gz is not one of .txt .md" in refused(tmp_path, "a.parquet.gz", b"")
