"""What is told of a training's windows before it starts."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlflow.utils.validation import _validate_metric
from pydantic import ValidationError

from nanogpt.batches import Text, Windows
from nanogpt.training.texts import ahead, labels, seen
from tests.kit.recipes import quick


def test_a_small_corpus_that_is_read_too_often_is_warned_of() -> None:
    text = Text(np.arange(1000), parts=(("plays", 900), ("notes", 100)))
    windows = Windows(text, 16, [1, 1])  # 55 windows and 5
    assert [*ahead(windows, 110)] == ["will read plays 1.00 times, notes 11.00 times"]
    _, warning = ahead(windows, 400)
    assert warning.startswith("warning: train.weights: notes is read 40 times")
    assert seen(Windows(text, 16), 400) == "", "by their size they are one text"


def test_a_document_longer_than_a_window_is_warned_of() -> None:
    documents = np.array([[0, 17], [17, 35], [35, 40]])  # of 16 targets, 17 and 4
    _, warning = ahead(Windows(Text(np.arange(40), documents=documents), 16), 4)
    assert warning.startswith("warning: of 1 document longer than model.context 16 each piece")
    assert [*ahead(Windows(Text(np.arange(40), documents=documents), 17), 4)] == [
        "3 pieces of documents in 3 windows, 72.5% full"
    ]


def test_a_label_is_what_mlflow_takes() -> None:
    names = ["hf:org/name@main", "notes/*.md", "/home/me/secret/book.txt", "/home/me/book.txt"]
    names += ["./letters/", "s3://bucket/chats", "https://example.org/a.txt"]
    names += [".", "a/" * 150 + "b.txt"]
    parts = [SimpleNamespace(name=name) for name in names]
    tokens: Any = SimpleNamespace(manifest=SimpleNamespace(parts=parts))
    found = labels(tokens)
    assert found[:4] == ["hf:org/name_main", "notes/_.md", "book.txt-3", "book.txt-4"]
    assert found[4:7] == ["letters", "s3:/bucket/chats", "https:/example.org/a.txt"]
    assert (found[7], found[8][-7:]) == ("_", "a/b.txt")
    for label in found:
        _validate_metric(f"eval_bits_per_byte/{label}", 1.0, 0, 0)


def test_answers_alone_need_whole_conversations() -> None:
    with pytest.raises(ValidationError, match="say packing: documents"):
        quick(train__loss_on="assistant")
