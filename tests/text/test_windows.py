"""A long text is encoded in windows, with the ids of the whole and little memory."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.text.words import library
from tests.kit.brought import base_json, llama2, unigram
from tests.kit.recipes import ROOT
from tests.text.test_tokenizer import EDGES, PLAY

KINDS = {
    "smollm": lambda: tokenizers.Tokenizer.from_str(base_json([])),
    "llama-2": llama2,
    "unigram": unigram,
}


@cache
def made(kind: str) -> tokenizers.Tokenizer:
    return KINDS[kind]()


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(
    pieces=st.lists(
        st.sampled_from([*PLAY.splitlines(), *EDGES.values(), " " * 700, "\n" * 90])
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        max_size=40,
    )
)
def test_a_long_text_in_windows_has_the_ids_of_the_whole(kind: str, pieces: list[str]) -> None:
    tokenizer, text = made(kind), " ".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "WINDOW", 300)
        patch.setattr(library, "OVERLAP", 120)
        ids, places = map(np.concatenate, zip(*library.windows(tokenizer, text), strict=True))
    whole = tokenizer.encode(text, add_special_tokens=False)
    assert ids.tolist() == whole.ids
    assert [*map(tuple, places.tolist())] == whole.offsets


def test_a_long_text_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(base_json([]))
    code = """
import resource, sys
from pathlib import Path
from nanogpt.text.words.tokenizer import load
tokenizer, text = load(Path(sys.argv[1])), sys.argv[2] * 1500
tokenizer.encode_array(text[:300_000])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tokenizer.encode_array(text)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / len(text.encode()))
"""
    command = [sys.executable, "-c", code, str(tmp_path), PLAY]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    assert float(said) < 30, "bytes of memory for each byte of text"
