"""Of conversations the answers are scored, from the start of each, by any template."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch

from nanogpt.formats.weights import load_model
from nanogpt.scoring.blocks import score
from nanogpt.scoring.page import differences
from nanogpt.scoring.paired import paired
from nanogpt.scoring.reading import scored
from nanogpt.text.talks.chat import Conversation, Message
from nanogpt.text.talks.template import ensure, open_template, plain_text
from nanogpt.text.tokens import HeldOut
from nanogpt.text.words import tokenizer
from nanogpt.text.words.vocabulary import char_json, write
from tests.kit.brought import base_json
from tests.scoring.test_blocks import random_model, world
from tests.text.test_template import CHATML

TALKS = [
    Conversation((Message("user", "To be?"), Message("assistant", "  Not to be. \n"))),
    Conversation(
        (
            Message("system", "Be brief."),
            Message("user", "Сколько 2 + 2?"),
            Message("assistant", "4 — четыре"),
            Message("user", "And for how long is it that?"),
            Message("assistant", "For ever."),
        )
    ),
]
PLAIN = "A text that nobody answers."


@pytest.fixture(params=["characters", "byte-level", "with a beginning"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """One with the plain template, one with a base's own."""
    if request.param == "characters":
        letters = {*PLAIN, *"".join(map(plain_text, TALKS))}
        write(tmp_path, char_json(letters, eot=True))
        ensure(tmp_path, tokenizer.load(tmp_path))
    else:
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        library = tokenizers.Tokenizer.from_str(base_json(special))
        if request.param == "with a beginning":
            library.post_processor = tokenizers.processors.TemplateProcessing(
                f"{special[0]} $A", special_tokens=[(special[0], 0)]
            )
        library.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "chat_template.jinja").write_text(CHATML)
    return random_model(tmp_path)


def held_out(*documents: str, talks: list[bool]) -> HeldOut:
    return replace(HeldOut.of("talks", *documents), conversations=np.array(talks))


def test_what_is_scored() -> None:
    text = held_out(TALKS[0].to_json(), PLAIN, TALKS[1].to_json(), talks=[True, False, True])
    found = scored(text)
    said = ["Not to be.", PLAIN, TALKS[1].messages[2].content + "For ever."]
    assert [found.document(i).decode() for i in range(3)] == said
    plain = HeldOut.of("plain", PLAIN)
    assert scored(plain) is plain


@pytest.mark.parametrize("context", [16, 6])
def test_each_conversation_is_scored_from_its_start(model: Path, context: int) -> None:
    """As if it stood alone; a longer one than the context in windows of its own."""
    network, encoder = load_model(model), tokenizer.load(model)
    template = open_template(model, encoder)
    nats = count = 0.0
    for talk in TALKS:
        ids, counted, *_ = template.read(talk)
        for start in range(0, len(ids) - 1, context):
            window = torch.from_numpy(ids[start : start + context + 1].astype(np.int64))[None]
            with torch.no_grad():
                losses = network(window[:, :-1], window[:, 1:])[0].double()
            own = torch.from_numpy(counted[start + 1 : start + context + 1])
            nats, count = nats + losses[own].sum().item(), count + own.sum().item()
    text = held_out(*(talk.to_json() for talk in TALKS), talks=[True, True])
    scores = score(model, text, context, world(), block=4)
    assert scores.total == pytest.approx(nats, rel=1e-5)
    assert scores.count == scores.tokens == count
    assert scores.nats.sum() == pytest.approx(scores.total)
    sizes = [len(scored(text).document(i)) for i in range(2)]
    assert np.bincount(scores.document, scores.bytes).tolist() == sizes
    assert scores.figures()["bits_per_byte"] == pytest.approx(nats / sum(sizes) / np.log(2))
    assert (scores.skipped, scores.unknown) == (0, 0)
    assert paired(scores, scores, 0.95).gain == 0  # of any two models, whatever their tokenizers
    page = "".join(differences(text, scores, replace(scores, nats=scores.nats / 2)))
    assert page.count("`") > 8
    assert "role" not in page  # parts of answers, not of JSON


def test_a_text_among_conversations_is_scored_too(model: Path) -> None:
    talk = TALKS[0].to_json()
    both = score(model, held_out(talk, PLAIN, talks=[True, False]), 16, world())
    alone = score(model, held_out(talk, talks=[True]), 16, world())
    assert both.nats[0] == pytest.approx(alone.nats[0])
    assert both.bytes.tolist() == [10, len(PLAIN)]
    assert both.tokens > alone.tokens
    parts = both.by_part([1, 0, 1])  # the second corpus has no document in it
    assert np.isnan(parts).tolist() == [False, True, False]


def test_what_begins_a_text_among_conversations_is_given(model: Path) -> None:
    """So it costs nothing, and a text of few tokens is not taken to have one more."""
    texts = [PLAIN[:size] for size in range(3, 12)]
    text = held_out(TALKS[0].to_json(), *texts, talks=[True] + [False] * 9)
    found = score(model, text, 16, world())
    assert found.tokens - found.count <= 1  # as of a text that is scored alone
    assert found.nats.sum() == pytest.approx(found.total)
