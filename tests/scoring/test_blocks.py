"""The loss of a text by blocks of its bytes is the loss of its tokens, whatever the tokenizer."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nanogpt.architecture import GPTConfig
from nanogpt.batches import Text
from nanogpt.common.errors import UserError
from nanogpt.evaluation import measures, total_loss
from nanogpt.formats.weights import load_model, save_model
from nanogpt.machine.distributed import World, join
from nanogpt.model import GPT
from nanogpt.scoring.blocks import Scores, score
from nanogpt.text.tokens import HeldOut, open_tokens
from nanogpt.text.words import tokenizer, vocabulary
from nanogpt.text.words.vocabulary import char_json, gpt2_json
from tests.kit.brought import base_json, llama2, put, unigram
from tests.kit.recipes import quick
from tests.text.test_tokenizer import EDGES, PLAY, train_vocabulary

CHARACTERS = sorted({*PLAY, *"".join(EDGES.values()), *map(chr, range(32, 127))})


def bert() -> tokenizers.Tokenizer:
    """Lower case without accents, and no blanks: what it does not stand for has no loss."""
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]"], show_progress=False
    )
    made.train_from_iterator([PLAY], trainer)
    return made


def gpt2(folder: Path) -> str:
    return gpt2_json(train_vocabulary(folder / "vocabulary"))


KINDS: dict[str, Callable[[Path], str]] = {
    "characters": lambda folder: char_json(CHARACTERS, eot=True),
    "gpt2": gpt2,
    "byte-level": lambda folder: base_json(["<|endoftext|>"]),
    "byte fallback": lambda folder: llama2().to_str(),
    "unigram": lambda folder: unigram().to_str(),
    "wordpiece": lambda folder: bert().to_str(),
}


@cache
def world() -> World:
    return join(quick().machine)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model of random weights for each kind of tokenizer."""

    @cache
    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("model")
        put(folder, json.loads(KINDS[kind](folder)))
        return random_model(folder)

    return make


def random_model(folder: Path) -> Path:
    shape = {"n_layer": 1, "n_head": 2, "n_kv_head": 2, "n_embd": 16, "n_inner": 16, "head_dim": 8}
    config = GPTConfig(
        architecture="qwen3",
        vocab_size=tokenizer.load(folder).vocab_size,
        context=16,
        tied=True,
        **shape,  # type: ignore[arg-type]
    )
    torch.manual_seed(1)
    model = GPT(config, torch.float32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.5)
    save_model(folder, config, dict(model.named_parameters()))
    return folder


def token_losses(folder: Path, ids: list[int]) -> NDArray[np.float64]:
    """The loss of each token, 0 of the first."""
    found = np.zeros(len(ids))
    model = load_model(folder)
    total_loss(model, Text(np.array(ids)), 16, world(), hear=found.__setitem__)
    return found


def check(scores: Scores, text: HeldOut, block: int) -> None:
    """Laws that hold of every tokenizer."""
    sizes = [len(text.document(index)) for index in range(len(text.starts))]
    assert scores.nats.sum() == pytest.approx(scores.total)
    assert np.bincount(scores.document, scores.bytes).tolist() == sizes
    assert (scores.bytes <= block).all()
    assert (scores.bytes > 0).all()
    assert len(scores.nats) == sum(-(-size // block) for size in sizes)
    assert scores.count == scores.tokens - 1


@pytest.mark.parametrize("kind", ["gpt2", "characters"])
def test_documents_apart_cost_what_each_costs_alone(
    models: Callable[[str], Path], kind: str
) -> None:
    """Each from the end of the one before, as a sample begins; a longer one in several windows."""
    folder, documents = models(kind), [PLAY[:50], "ay", PLAY[50:57]]
    text, encoder = HeldOut.of("three", *documents), tokenizer.load(folder)
    scores = score(folder, text, 16, world(), block=8, apart=True)
    check(scores, text, 8)
    nats = 0.0
    for i, document in enumerate(documents):
        start = [] if i == 0 or encoder.eot is None else [encoder.eot]
        end = [] if encoder.eot is None else [encoder.eot]
        nats += token_losses(folder, [*start, *encoder.encode(document), *end]).sum()
    assert scores.total == pytest.approx(nats, rel=1e-5)
    together = score(folder, text, 16, world(), block=8)
    assert together.total != pytest.approx(nats, rel=1e-5)
    assert together.count == scores.count


known = st.text(st.sampled_from(CHARACTERS), min_size=2)
pieces = st.sampled_from([*PLAY.splitlines(), *(text for text in EDGES.values() if text)]) | known


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    documents=st.lists(st.lists(pieces, min_size=1, max_size=3).map("".join), min_size=1),
    block=st.sampled_from([1, 2, 7, 64, 512]),
)
def test_the_losses_of_blocks_are_those_of_tokens(
    models: Callable[[str], Path], kind: str, documents: list[str], block: int
) -> None:
    text = HeldOut.of("a text", "ROMEO", *documents)
    check(score(models(kind), text, 16, world(), block), text, block)


@pytest.mark.parametrize("apart", [True, False])
def test_the_parts_of_a_text_are_all_of_it(models: Callable[[str], Path], apart: bool) -> None:
    text = HeldOut.of("three", PLAY[:9], "ay — ay", PLAY[50:59])
    scores = score(models("characters"), text, 16, world(), block=4, apart=apart)
    parts = scores.by_part([1, 2]) * [9, len("ay — ay".encode()) + 9]
    assert parts.sum() / len(text.data) == pytest.approx(scores.figures()["bits_per_byte"])


@pytest.mark.parametrize(
    ("kind", "first"), [("characters", "To be—"), ("gpt2", "To be"), ("byte-level", "To be")]
)
def test_each_loss_is_at_the_bytes_of_its_token(
    models: Callable[[str], Path], kind: str, first: str
) -> None:
    folder, words = models(kind), [first, "ay, 'tis"]
    encoder = tokenizer.load(folder)
    assert encoder.eot is not None
    ids = [i for word in words for i in [*encoder.encode(word), encoder.eot]]
    losses = token_losses(folder, ids)
    expected = np.zeros(sum(len(word.encode()) for word in words))
    place, each = 0, iter(losses)
    for word in words:
        for i in encoder.encode(word):
            size = len(encoder.decode([i]).encode())
            expected[place : place + size] += next(each) / size
            place += size
        expected[place - 1] += next(each)
    scores = score(folder, HeldOut.of("two", *words), 16, world(), block=1)
    assert scores.nats == pytest.approx(expected)
    assert scores.skipped == len(encoder.decode(ids[:1]).encode())


def test_parts_of_a_character_stay_at_it(models: Callable[[str], Path]) -> None:
    for kind in ("gpt2", "byte-level", "byte fallback"):
        scores = score(
            models(kind), HeldOut.of("Gothic", "a" + "\U00010348" * 3 + "b"), 16, world(), 1
        )
        assert scores.tokens >= 14, kind  # a byte each
        assert scores.unknown == 0, kind
        assert (np.add.reduceat(scores.nats, [1, 5, 9]) > 0).all(), kind


def test_what_stands_before_a_text_is_at_its_first_byte(tmp_path: Path) -> None:
    made = llama2()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    put(tmp_path, json.loads(made.to_str()))
    folder = random_model(tmp_path)
    one = score(folder, HeldOut.of("one", "ay"), 16, world(), 1)
    assert one.skipped == 0  # <s> is the first token: all of the text has a loss; no end is there
    assert one.tokens == 1 + len(tokenizer.load(folder).encode("ay"))
    two = score(folder, HeldOut.of("two", "ay", "ay"), 16, world(), 1)
    assert two.tokens == 2 * (one.tokens + 1)


def test_what_a_tokenizer_does_not_know_is_counted(models: Callable[[str], Path]) -> None:
    assert score(models("unigram"), HeldOut.of("a", "the \u0915\u0915"), 16, world()).unknown == 6
    assert score(models("wordpiece"), HeldOut.of("a", "to be  or"), 16, world()).unknown == 3
    with pytest.raises(UserError, match=r"does not know 1 of 5 characters of a\.txt \('𝄞'\)"):
        score(models("characters"), HeldOut.of("a.txt", "the \U0001d11e"), 16, world())


def test_documents_of_which_no_token_comes(models: Callable[[str], Path]) -> None:
    two = score(models("wordpiece"), HeldOut.of("two", "to be", "\x00"), 16, world(), apart=True)
    assert (two.count, two.unknown) == (1, 2)  # the blank and the control
    with pytest.raises(UserError, match="short has no document of two tokens"):
        score(models("wordpiece"), HeldOut.of("short", "a", "b"), 16, world(), apart=True)


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_of_less_than_two_tokens(models: Callable[[str], Path], text: str) -> None:
    with pytest.raises(UserError, match=rf"a\.txt is {len(text)} tokens? long, and a loss needs"):
        score(models("characters"), HeldOut.of("a.txt", text), 16, world())


def test_a_folder_that_is_no_model(tmp_path: Path, models: Callable[[str], Path]) -> None:
    text = HeldOut.of("a", "some text")
    with pytest.raises(UserError, match=r"tokenizer\.json does not exist"):
        score(tmp_path, text, 16, world())
    vocabulary.write(tmp_path, char_json(CHARACTERS, eot=True))
    with pytest.raises(UserError, match="is not a model directory"):
        score(tmp_path, text, 16, world())
    small = models("characters")
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((small / file).read_bytes())
    vocabulary.write(tmp_path, char_json([*CHARACTERS, "\u0915"], eot=True))
    with pytest.raises(UserError, match="they do not belong together"):
        score(tmp_path, text, 16, world())


def test_a_window_is_no_longer_than_the_model_s(models: Callable[[str], Path]) -> None:
    text = HeldOut.of("a play", PLAY)
    long, own, short = (score(models("gpt2"), text, n, world()) for n in (99, 16, 8))
    assert (long.context, own.context, short.context) == (16, 16, 8)
    assert long.nats.tolist() == own.nats.tolist() != short.nats.tolist()
    assert json.loads(json.dumps(own.figures())).keys() == {
        "loss",
        "perplexity",
        "bits_per_byte",
        "tokens",
    }


def test_the_text_of_tokens_has_the_loss_of_its_ids(tokenized: Path, tmp_path: Path) -> None:
    tokens = open_tokens(tokenized / "data" / "test" / "tokens")
    for file in tokens.tokenizer_files():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    folder, text = random_model(tmp_path), tokens.text("test")
    scores, ids = score(folder, text, 16, world()), tokens.split("test")
    nats, count = total_loss(load_model(folder), Text(ids), 16, world())
    assert (scores.total, scores.count, scores.tokens) == (nats, count, len(ids))
    assert scores.figures() == measures(nats, count, len(ids), tokens.manifest.splits["test"].bytes)
    check(scores, text, 512)

    other = replace(text, data=text.data.replace(b"e", b"a"))
    with pytest.raises(
        UserError, match=r"test\.bin does not hold the ids that its tokenizer makes"
    ):
        score(folder, other, 16, world())
