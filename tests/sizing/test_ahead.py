"""What would stop a late stage is said before the cost, with the person's own path."""

import os
from pathlib import Path

import pytest

from nanogpt.common.errors import UserError
from nanogpt.sizing.ahead import before_download, before_training
from nanogpt.text.tokens import open_tokens
from nanogpt.text.writer import tokenize
from tests.kit.recipes import quick
from tests.text.test_documents import make_raw
from tests.text.test_documents import settings as tokens_settings


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("BOOK.TXT", b"To be", None),
        ("a.jsonl", b'{"text": "a"}', None),
        ("notes", b"To be", "cannot read notes: not one of .txt .md .* or .zst; give it the"),
        ("a.csv", b"text\na", None),
        ("a.tsv", b"text\na", "cannot read a.tsv: .*; write it as .csv or .parquet"),
        ("a.txt.gz", b"\x1f\x8b", "/a.txt.gz cannot be unpacked .gzip. after byte 0 of its text"),
        ("a.pdf.gz", b"\x1f\x8b", "cannot read a.pdf.gz: .*; unpack it"),
        ("a.json", b'[{"body": "a"}]', "/a.json, element 0 .*, has no text in a field 'text'"),
        ("a.txt", b"", "download.corpus: a.txt is empty"),
        ("a.txt", "To be".encode("utf-16"), "/a.txt is not UTF-8 at byte 0 .* looks like UTF-16"),
        ("a.jsonl", b'{"body": "a"}', "/a.jsonl, line 1, has no text in a field 'text'"),
        ("a.parquet", b"PAR1", "/a.parquet is not a parquet file"),
        (b"\xff.txt", b"To be", r"the name b'\\xff.txt' is not UTF-8; rename the file"),
    ],
    ids=str,
)
def test_own_text_before_it_is_fetched(
    here: Path, name: str | bytes, content: bytes, says: str | None
) -> None:
    (here / os.fsdecode(name)).write_bytes(content)
    settings = quick(download__corpus=name if isinstance(name, str) else "*.txt")
    if says is None:
        assert before_download(settings) == ""  # nothing to tell
        return
    with pytest.raises(UserError, match=says):
        before_download(settings)


def test_answers_of_what_are_no_conversations(here: Path) -> None:
    Path("a.jsonl").write_text('{"text": "a"}')
    talks = {"train__loss_on": "assistant", "train__packing": "documents"}
    with pytest.raises(UserError, match="is for conversations, and download"):
        before_download(quick(download__corpus="a.jsonl", **talks))


def test_a_fault_in_a_later_piece_costs_no_reading(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogpt.text.documents.PIECE", 6)  # the cut is inside a letter
    Path("a.jsonl").write_text('{"text": "a"}\n' * 3 + "{")
    Path("b.txt").write_bytes("Ah, où".encode() + b"\xff")
    before_download(quick(download__corpus="[ab].*"))


def test_a_separator_that_is_nowhere_is_told(here: Path) -> None:
    Path("a.txt").write_text("To be\n\nor not to be")
    asked = {"download__corpus": "a.txt"}
    told = before_download(quick(**asked, download__separator="%%"))
    assert told == "download.separator: '%%' is nowhere in the beginnings of the files"
    assert before_download(quick(**asked, download__separator="\n\n")) == ""
    Path("a.csv").write_text("text\na\n")
    assert before_download(quick(download__corpus="a.csv", download__separator="%%")) == ""


def test_where_all_is_bad_nothing_is_skipped(here: Path) -> None:
    asked = {"download__corpus": "*.jsonl", "download__bad_documents": "skip"}
    Path("a.jsonl").write_text('{"body": "a"}\n{"body": "b"}\n')
    with pytest.raises(UserError, match=r"/a.jsonl, line 1, has no text in a field 'text'"):
        before_download(quick(**asked))
    Path("b.jsonl").write_text('{"text": "a"}\n')
    assert before_download(quick(**asked)) == ""


def test_what_is_taken_of_a_folder_is_told(here: Path) -> None:
    Path("poems").mkdir()
    for name in ("a.txt", "b.txt", "c.pdf", ".d"):
        Path("poems", name).write_text("To be")
    told = before_download(quick(download__corpus="poems"))
    assert told == "the folder poems: 2 .txt; left out: 1 .pdf (take the text out of it), 1 hidden"
    Path("poems/e.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"poems/e\.txt is not UTF-8"):
        before_download(quick(download__corpus="poems"))


def test_what_is_not_there(here: Path) -> None:
    Path("a.txt").write_text("To be")
    Path("gone.txt").symlink_to("nowhere")
    Path("folder.txt").mkdir()
    for corpus, says in (
        ("gone.txt", "is neither a known corpus nor a file|is a link to nothing"),
        ("*.txt", "gone.txt is a link to nothing, or no ordinary file"),
        ("f*.txt", "no file matches 'f\\*.txt' but folders"),
    ):
        with pytest.raises(UserError, match=says):
            before_download(quick(download__corpus=corpus))
    given = quick(download__corpus="a.txt", sample__prompt_file="nowhere.txt")
    with pytest.raises(UserError, match=r"sample\.prompt_file: 'nowhere\.txt' does not exist"):
        before_download(given)
    given = quick(
        download__corpus="a.txt",
        download__base="nowhere",
        tokenize__tokenizer="base",
        model={"context": 8, "dropout": 0.0},
    )
    with pytest.raises(UserError, match=r"download\.base: 'nowhere' is neither"):
        before_download(given)


def test_a_recipe_does_not_feed_on_what_it_wrote(here: Path) -> None:
    for name in ("a.txt", "data/test/raw/corpus/a.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("To be")
    with pytest.raises(UserError, match=r"matches data/test/raw/corpus/a\.txt, which this recipe"):
        before_download(quick(download__corpus="**/*.txt", data="data/test"))
    before_download(quick(download__corpus="*.txt", data="data/test"))


def test_what_nobody_may_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.txt").write_text("To be")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
    with pytest.raises(UserError, match=r"a\.txt: you are not permitted to read it"):
        before_download(quick(download__corpus="a.txt"))


HEBREW = "שלום עולם\nבקר טוב\n" * 9


@pytest.mark.parametrize(
    ("text", "prompt", "says"),
    [
        (HEBREW, "שלום", None),
        (HEBREW, "", None),
        (HEBREW, "ROMEO:\n", r"sample\.prompt: 'R' \(U\+0052\) at position 0 .* not in the vocab"),
        ("one line " * 99, "", r"sample\.prompt: the prompt is empty, .* the corpus's own charact"),
        ("ab", "a", "the test split has 1 of the two tokens .* raise tokenize.test, or set that"),
    ],
)
def test_a_prompt_and_scores_before_a_training(
    tmp_path: Path, text: str, prompt: str, says: str | None
) -> None:
    shares = {"val": 0.25, "test": 0.01} if len(text) == 2 else {}
    raw = make_raw(tmp_path / "raw", {"a.txt": text * (50 if shares else 1)})
    tokenize(raw, tmp_path / "tokens", tokens_settings(**shares))  # type: ignore[arg-type]
    tokens = open_tokens(tmp_path / "tokens")
    settings = quick(sample__prompt=prompt)
    if says is None:
        return before_training(settings, tokens)
    with pytest.raises(UserError, match=says):
        before_training(settings, tokens)
