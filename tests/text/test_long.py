"""A long text is read in blocks with the ids of the whole; a run that was killed goes on."""

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from nanogpt.common.errors import UserError
from nanogpt.text import documents
from nanogpt.text.raw import open_raw
from nanogpt.text.tokens import SPLITS, open_tokens
from nanogpt.text.words.cuts import cut
from nanogpt.text.words.tokenizer import load
from nanogpt.text.writer import tokenize
from nanogpt.text.writing import chunks, stretches
from nanogpt.text.writing.chunks import plan
from nanogpt.text.writing.scratch import scratch
from nanogpt.text.writing.splits import CUT
from nanogpt.text.writing.stretches import Place
from tests.kit.recipes import ROOT
from tests.text.test_documents import make_raw, settings
from tests.text.test_tokenizer import PLAY, train_vocabulary
from tests.text.test_tokens import contents

texts = st.text(st.sampled_from("ab é😀 .\n"), min_size=1, max_size=120)
sizes = st.integers(4, 40)  # bytes; but for the last one, a piece has a character


@settings_of(max_examples=100, deadline=None)
@given(texts, sizes, sizes, st.lists(st.integers(0, 120), min_size=2, max_size=2), st.data())
def test_stretches_are_the_text(
    tmp_path_factory: pytest.TempPathFactory,
    text: str,
    piece: int,
    chunk: int,
    ends: list[int],
    data: st.DataObject,
) -> None:
    """Whatever the pieces, chunks and cuts: each split has its part, cut only where allowed."""
    raw = make_raw(tmp_path_factory.mktemp("raw") / "raw", {"a.txt": text})
    first, second = sorted(min(end, len(text)) for end in ends)
    whole = data.draw(st.booleans())
    parts = ["", text, ""] if whole else [text[:first], text[first:second], text[second:]]
    label = 1 if whole else CUT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE", piece)
        patch.setattr(chunks, "CHUNK", chunk)
        patch.setattr(stretches, "BACK", data.draw(sizes))
        found, done = [], 0
        for one in plan(raw, open_raw(raw)):
            place = Place(np.array([label], np.uint8), {0: (first, second, len(text))}, done)
            found += stretches.stretches(one, place, cut)
            done += sum(len(read.document or "") for _, read in one.texts())
    for split, part in enumerate(parts):
        mine = [stretch for stretch in found if stretch.label == split]
        assert "".join(str(stretch.text) for stretch in mine) == part
        if part:
            assert [stretch.begins for stretch in mine] == [True] + [False] * (len(mine) - 1)
            assert [stretch.ends for stretch in mine] == [False] * (len(mine) - 1) + [True]
        at = 0
        for before, _ in pairwise(mine):
            at += len(before.text if isinstance(before.text, str) else "")
            assert cut(part, at) == at


def test_a_long_text_has_the_ids_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PLAY * 40
    raw = make_raw(tmp_path / "raw", {"play.txt": text})
    train_vocabulary(raw / "vocabulary")
    monkeypatch.setattr(documents, "PIECE", 500)
    monkeypatch.setattr(chunks, "CHUNK", 900)
    tokenize(raw, tmp_path / "tokens", settings("gpt2"))
    tokens = open_tokens(tmp_path / "tokens")
    tokenizer = load(tokens.folder)
    ends = [int(len(text) * share) for share in (0, 0.8, 0.9, 1)]
    for name, (start, stop) in zip(SPLITS, pairwise(ends), strict=True):
        assert tokens.split(name).tolist() == tokenizer.encode(text[start:stop])
        assert len(tokens.starts(name)) == 1


def test_a_long_text_that_is_bad_somewhere_is_skipped_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = bytearray(PLAY.encode() * 3 + "Ω".encode())
    bad[600] = 0xFF
    files: dict[str, str | bytes] = {"a.txt": PLAY * 2, "b.txt": bytes(bad), "c.txt": PLAY * 3}
    raw = make_raw(tmp_path / "raw", files, bad_documents="skip")
    (tmp_path / "good").mkdir()
    good = make_raw(tmp_path / "good" / "raw", {"a.txt": PLAY * 2, "c.txt": PLAY * 3})
    monkeypatch.setattr(documents, "PIECE", 500)
    monkeypatch.setattr(chunks, "CHUNK", 900)
    made = tokenize(raw, tmp_path / "tokens", settings())
    assert "1 of 3 texts left out: not UTF-8" in capsys.readouterr().err
    tokenize(good, tmp_path / "good" / "tokens", settings())
    for name in SPLITS:
        ids, theirs = (open_tokens(f / "tokens").split(name) for f in (tmp_path, good.parent))
        np.testing.assert_array_equal(ids, theirs)
    assert made.profile.skipped["not UTF-8"].texts == 1


SCRIPT = """
import sys
from pathlib import Path
from nanogpt.text.writer import tokenize
from nanogpt.text.writing import chunks, workers
from tests.text.test_documents import settings

chunks.CHUNK, workers.SMALL = 20_000, 0
if __name__ == "__main__":
    tokenize(Path("raw"), Path("tokens"), settings(), processes=2)
"""


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, str | bytes] = {f"{i:03}.txt": f"{i}\n{PLAY}" for i in range(300)}
    raw = make_raw(tmp_path / "raw", files)
    monkeypatch.setattr(chunks, "CHUNK", 20_000)
    tokenize(raw, tmp_path / "whole", settings())
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    run = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(run, cwd=tmp_path, env=environment, start_new_session=True) as process:
        while not (shards := [*tmp_path.glob("state/tokens-*/0*")]) and process.poll() is None:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    assert shards
    done = subprocess.run(
        run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "shards are there" in done.stdout
    assert contents(tmp_path / "tokens") == contents(tmp_path / "whole")
    assert not (tmp_path / "state").exists()


def test_two_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanogpt.text.writing.scratch.PATIENCE", 0.1)
    with (
        scratch(tmp_path, "the same"),
        pytest.raises(UserError, match="another process makes these very tokens"),
        scratch(tmp_path, "the same"),
    ):
        pass
