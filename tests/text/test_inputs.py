"""What people bring as text, by kind: taken as it is, refused, or warned of with a count."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanogpt.common.errors import UserError
from nanogpt.common.manifest import write_manifest
from nanogpt.text import documents
from nanogpt.text.checks.survey import NONE, TOLD, survey
from nanogpt.text.documents import Piece, pieces
from nanogpt.text.raw import open_raw
from nanogpt.text.writer import tokenize
from tests.text.test_documents import make_raw, reading, settings

MARK = "\N{BYTE ORDER MARK}"
DEEP = '{"text": "a", "more": ' + "[" * 200_000 + "]" * 200_000 + "}"


def table(values: list[str | None]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": pa.array(values, pa.string())}), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read(folder: Path, name: str, content: str | bytes) -> list[str]:
    """The documents of one file, as the two readings of `tokenize` find them."""
    raw = make_raw(folder / "raw", {name: content})
    ((part, files),) = open_raw(raw).by_part()
    parts = list(pieces(raw, part.reading, files))
    survey(raw, part.reading, parts, characters=True).tell(raw)
    return [text for some in parts for text in documents.documents(raw, part.reading, some)]


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", f"{MARK}To be", ["To be"]),
        ("a.md", f"{MARK}# To be", ["# To be"]),
        ("a.txt", "", []),
        ("a.txt", MARK, []),
        ("BOOK.TXT", "To be", ["To be"]),
        ("A.Jsonl", '{"text": "a"}\n', ["a"]),
        ("A.PARQUET", table(["a", "b"]), ["a", "b"]),
        ("a.jsonl", f'{MARK}{{"text": "a"}}\n{MARK}{{"text": "b"}}', ["a", "b"]),
        ("a.jsonl", '\r\n{"text": "a"}\r\n\r\n', ["a"]),
        ("a.jsonl", '{"text": "a\u2028b"}', ["a\u2028b"]),
        ("a.jsonl", '{"text": "a", "n": ' + "9" * 4000 + "}", ["a"]),
        ("a.txt", "Å 한국어 שלום\n\tI\f\n", ["Å 한국어 שלום\n\tI\f\n"]),
    ],
)
def test_taken_as_it_is(
    tmp_path: Path,
    name: str,
    content: str | bytes,
    texts: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert read(tmp_path, name, content) == texts
    assert ("left out" in capsys.readouterr().err) == (not texts)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "To be".encode("utf-16"), "it looks like UTF-16: `iconv -f UTF-16 -t UTF-8`"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "it looks like UTF-16"),
        ("a.txt", "To be".encode("utf-16-le"), "has more null bytes than a text has"),
        ("a.txt", "To be".encode("utf-32-be"), "has more null bytes than a text has"),
        (
            "a.txt",
            b"\x1f\x8b\x08\x00\x00",
            "it looks like gzip: call it .gz after its kind",
        ),
        ("a.txt", b"PK\x03\x04\xff", "it looks like a zip archive"),
        ("a.txt", b"%PDF-1.4\n%\xe2\xe3", "it looks like PDF"),
        ("a.txt", "Où".encode("latin-1"), "is not UTF-8 at byte 1 (counted from 0); convert it"),
        ("a.jsonl", DEEP, "a.jsonl, line 1, cannot be read as JSON: "),
        ("a.jsonl", '{"text": ' + "9" * 5000 + "}", "a.jsonl, line 1, cannot be read as JSON: "),
        ("a.jsonl", '[\n{"text": "a"}\n]', "a.jsonl, line 1, begins an array, which is no line of"),
        ("a.jsonl", '[{"text": "a"}]', "a.jsonl, line 1, begins an array, which is no line of"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b', "a.jsonl, line 2, cannot be read as JSON: "),
        ("a.jsonl", "text\na\n", "a.jsonl, line 1, cannot be read as JSON: "),
        (
            "a.jsonl",
            '{"body": "a", "id": 1}',
            "in a field 'text'; its fields: body ('a'), id (1); name",
        ),
        ("a.jsonl", '{"txet": "To be"}', "in download.text_field; did you mean txet?"),
        ("a.jsonl", json.dumps({"body": "a" * 99}), f"body ('{'a' * 39}…); name the right one"),
        ("a.jsonl", '{"text": ["a"]}', "no text in a field 'text'; its fields: text (['a']); name"),
        ("a.parquet", table(["a" * 99] * 99)[:-9], "a.parquet is not a parquet file: "),
    ],
)
def test_refused(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, name, content)
    assert says in str(caught.value)
    mend = "name the right one in download.text_field", "left out by download.bad_documents: skip"
    assert str(caught.value).count(mend[0]) + str(caught.value).count(mend[1]) == 1


def test_a_damaged_page_of_a_table_is_refused(tmp_path: Path) -> None:
    good = table([f"line {i}" for i in range(999)])
    with pytest.raises(UserError, match=r"a\.parquet is damaged: .*; mend it, or"):
        read(tmp_path, "a.parquet", good[:40] + bytes(200) + good[240:])


@pytest.mark.parametrize(
    ("name", "content", "texts", "says"),
    [
        (
            "a.jsonl",
            '{"text": null}\n{"text": "b"}',
            ["b"],
            f"1 of 2 texts (first ^, line 1) has {TOLD[NONE]}",
        ),
        (
            "a.jsonl",
            '{"text": "b"}\n{"text": ""}\n{"text": " \\n"}',
            ["b"],
            f"2 of 3 texts (first ^, line 2) have {TOLD[NONE]}",
        ),
        (
            "a.parquet",
            table(["a", None, ""]),
            ["a"],
            f"first ^, row 1 (counted from 0)) have {TOLD[NONE]}",
        ),
        ("a.txt", " \n\t", [], f"1 of 1 texts (first ^) has {TOLD[NONE]}"),
        ("a.txt", "To be\r\nor not", ["To be\r\nor not"], "(first ^) has carriage returns"),
        ("a.txt", "To be\0, or not to be", ["To be\0, or not to be"], "such as U+0000: kept"),
        ("a.txt", f"a{MARK}b", [f"a{MARK}b"], "seldom text, such as U+FEFF: kept"),
        ("a.txt", "Wh\ufffd", ["Wh\ufffd"], "such as U+FFFD: kept"),
        ("a.txt", "\x1b[1mTo be\x1b[0m", ["\x1b[1mTo be\x1b[0m"], "such as U+001B: kept"),
        ("a.txt", "It\x92s", ["It\x92s"], "such as U+0092: kept"),
        ("a.txt", "e\u0301te\u0301", ["e\u0301te\u0301"], "has accents apart from their letters"),
        ("a.txt", "\n<!DOCTYPE html>\n", ["\n<!DOCTYPE html>\n"], "the beginning of a web page"),
    ],
)
def test_warned_of(
    tmp_path: Path,
    name: str,
    content: str | bytes,
    texts: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert read(tmp_path, name, content) == texts
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tokenize: warning: ")
    assert says.replace("^", str(tmp_path / "raw" / "corpus" / name)) in line


def test_a_long_line_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps({"text": "x" * 50_000}).encode()
    (tmp_path / "a.jsonl").write_bytes(line + b"\n" + line)
    size = 2 * len(line) + 1
    asked: list[int] = []
    opened = Path.open

    class Counting:
        def __init__(self, *args: object, **kwargs: object) -> None:
            self.file = opened(*args, **kwargs)  # type: ignore[call-overload]

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def readline(self, limit: int = -1) -> bytes:
            data: bytes = self.file.readline(limit)
            asked.append(len(data))
            return data

    monkeypatch.setattr(Path, "open", lambda *args, **kwargs: Counting(*args, **kwargs))
    parts = [Piece("a.jsonl", i, min(i + 1000, size), 0) for i in range(0, size, 1000)]
    found = [len(text) for part in parts for text in documents.documents(tmp_path, reading(), part)]
    assert found == [50_000, 50_000]
    assert sum(asked) < 3 * size


SOME = {"a.txt": "a" * 1000, "b.txt": "b" * 1000, "c.txt": "c" * 1000}


@pytest.mark.parametrize(
    ("texts", "options", "says"),
    [
        # at val 0.1 and test 0.1, ten documents of one length divide as they should
        ({f"{i}.txt": str(i) * 50 for i in range(10)}, {}, []),
        (
            SOME,
            {},
            ["3 documents of these lengths do not divide into val 0.1 and test 0.1, so"],
        ),
        ({"a.txt": "a" * 9000, "b.txt": "b" * 9, "c.txt": "c" * 9}, {}, ["so 1 of them is cut"]),
        (SOME, {"val": 0.3, "test": 0.3}, []),
        ({"a.txt": "To be, or not to be" * 9}, {}, []),
        (
            {f"{i}.txt": str(i % 5) * 50 for i in range(10)},
            {},
            ["5 of 10 documents repeat an earlier one, word for word: left out"],
        ),
    ],
    ids=["even", "three", "a large one", "as asked", "one", "copies"],
)
def test_what_the_splits_hold(
    tmp_path: Path,
    texts: dict[str, str | bytes],
    options: dict[str, float],
    says: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenize(make_raw(tmp_path / "raw", texts), tmp_path / "tokens", settings(**options))  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    warnings = [line for line in lines if line.startswith("tokenize: warning: ")]
    assert len(warnings) == len(says), warnings
    for warning, said in zip(warnings, says, strict=True):
        assert said in warning


def test_too_little_to_divide(tmp_path: Path) -> None:
    raw = make_raw(tmp_path / "raw", {"a.txt": "abc", "b.txt": "def"})
    with pytest.raises(UserError, match="6 characters in 2 documents, too few for tokenize"):
        tokenize(raw, tmp_path / "tokens", settings())
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize("content", [table([]), table([None]), table(["A copy. " * 30])])
def test_an_empty_corpus_beside_another_is_refused(tmp_path: Path, content: bytes) -> None:
    raw = make_raw(tmp_path / "raw", {"a.parquet": table(["A copy. " * 30]), "b.parquet": content})
    made = open_raw(raw)
    parts = [made.parts[0].model_copy(update={"name": n, "files": 1}) for n in ("one", "two")]
    write_manifest(raw, made.model_copy(update={"parts": tuple(parts)}))
    with pytest.raises(UserError, match=r"download\.corpus: two: no text is there, or none that"):
        tokenize(raw, tmp_path / "tokens", settings())
