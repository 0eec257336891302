"""Texts that grow together are what they would be alone, and what the plain model says."""

import random
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch

from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError
from nanogpt.generation import engine as engine_file
from nanogpt.generation.engine import Engine
from nanogpt.generation.options import Options
from nanogpt.generation.text import Text
from nanogpt.model import GPT
from nanogpt.text.prompt import Start, go_on
from nanogpt.text.words.tokenizer import Tokenizer, load
from nanogpt.text.words.vocabulary import char_json

CONTEXT = 24
PLAIN = Options(tokens=20, temperature=0, seed=1)
SHAPES = {
    "gpt2": {},
    "llama": {"n_kv_head": 2},
    "qwen2": {},
    "qwen3": {"n_kv_head": 1},
    "smollm3": {"no_rope": (1,)},
    "olmo2": {},
}


def make(shape: str, compute: torch.dtype = torch.float32) -> GPT:
    """A model that is sure of something, with more rows than there are characters."""
    values = {"n_layer": 2, "n_head": 4, "n_kv_head": 4, "n_embd": 32, "head_dim": 8}
    values |= {"vocab_size": 100, "context": CONTEXT, "n_inner": 48}
    config = GPTConfig(**values | {"architecture": shape, "tied": False} | SHAPES[shape])  # type: ignore[arg-type]
    torch.manual_seed(2)
    model = GPT(config, compute).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("letters")
    (folder / "tokenizer.json").write_text(char_json(map(chr, range(32, 123)), eot=False))
    return load(folder)


def finish(engine: Engine) -> None:
    while engine.busy:
        for text in engine.step():
            if text.error:
                raise text.error


def run(model: GPT, tokenizer: Tokenizer, start: Start, options: Options) -> Text:
    engine = Engine(model, tokenizer, 1)
    text = engine.add(start, options)
    finish(engine)
    return text


def plainly(model: GPT, ids: list[int], tokens: int, known: int = 91) -> list[int]:
    """The likeliest tokens without a cache; past the context the newer half is left."""
    window, new = [*ids], []
    for _ in range(tokens):
        if len(window) > CONTEXT:
            window = window[-CONTEXT // 2 :]
        with torch.no_grad():
            new.append(int(model(torch.tensor([window]))[0, -1, :known].argmax()))
        window.append(new[-1])
    return new


@pytest.mark.parametrize("shape", SHAPES)
def test_the_likeliest_tokens_are_those_without_a_cache(letters: Tokenizer, shape: str) -> None:
    model = make(shape)
    engine = Engine(model, letters, 3)
    starts = [go_on(letters, text) for text in ("to be", "x" * CONTEXT, "?", "or not")]
    texts = [engine.add(start, replace(PLAIN, tokens=60)) for start in starts]
    finish(engine)
    for start, text in zip(starts, texts, strict=True):
        assert [token.id for token in text.tokens] == plainly(model, start.ids, 60)
        assert (text.drawn, text.reason) == (60, "length")


@pytest.mark.parametrize("shape", ["gpt2", "qwen3"])
def test_in_bfloat16_they_are_too(letters: Tokenizer, shape: str) -> None:
    model = make(shape, torch.bfloat16)
    engine = Engine(model, letters, 2)
    starts = [go_on(letters, text) for text in ("to be", "or not to be")]
    texts = [engine.add(start, replace(PLAIN, tokens=4)) for start in starts]
    finish(engine)
    for start, text in zip(starts, texts, strict=True):
        assert [token.id for token in text.tokens] == plainly(model, start.ids, 4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", ["gpt2", "qwen3", "smollm3"])
def test_a_text_is_the_same_alone_and_beside_others(
    letters: Tokenizer, shape: str, dtype: str
) -> None:
    model, draw = make(shape, getattr(torch, dtype)), random.Random(3)
    asked = []
    for seed in range(14):
        prompt = "".join(draw.choices("abcdef", k=draw.randint(1, CONTEXT)))
        options = Options(
            tokens=draw.randint(1, 50),
            temperature=draw.choice([0, 1.0, 1.5]),
            seed=seed,
            top_k=draw.choice([None, 5]),
            top_p=draw.choice([None, 0.9]),
            min_p=draw.choice([None, 0.05]),
            repetition_penalty=draw.choice([1.0, 1.2]),
            presence_penalty=draw.choice([0, 0.5]),
            stop=draw.choice([(), ("ab", *"cQx1?T k")]),
            logprobs=draw.choice([None, 2]),
            prompt_logprobs=draw.choice([False, True]),
            past=draw.choice(["half", "stop"]),  # type: ignore[arg-type]
        )
        asked.append((go_on(letters, prompt), options))
    alone = [run(model, letters, *one) for one in asked]
    assert len({text.text for text in alone}) > 10
    assert {text.reason for text in alone} == {"stop", "length"}
    engine, beside = Engine(model, letters, 4), []
    for one in asked:
        beside.append(engine.add(*one))
        for _ in range(draw.randint(0, 6)):
            engine.step()
        if draw.random() < 0.3:  # one that goes away
            gone = engine.add(*draw.choice(asked))
            engine.step()
            engine.drop(gone)
    finish(engine)
    for one, other in zip(alone, beside, strict=True):
        assert (one.text, one.reason, one.drawn) == (other.text, other.reason, other.drawn)
        assert [t.id for t in one.tokens] == [t.id for t in other.tokens]
        for a, b in zip(one.prompt + one.tokens, other.prompt + other.tokens, strict=True):
            # a float32 product of under four rows has other last bits; one of bfloat16 has not
            near = b.logprob if dtype == "bfloat16" else pytest.approx(b.logprob, abs=1e-4)
            assert (a.logprob, len(a.top)) == (near, len(b.top))


def test_log_probabilities_are_the_models_own(letters: Tokenizer) -> None:
    model = make("llama")
    start = go_on(letters, "to be or not to be")
    options = replace(PLAIN, temperature=2.0, top_k=3, tokens=6, logprobs=4)
    text = run(model, letters, start, replace(options, prompt_logprobs=True))
    ids = start.ids + [token.id for token in text.tokens]
    with torch.no_grad():
        logprobs = model(torch.tensor([ids]))[0, :, :91].log_softmax(-1)
    told = text.prompt + text.tokens
    assert [token.id for token in told] == ids
    assert (told[0].logprob, told[0].top) == (None, [])
    for place, token in enumerate(told[1:]):
        assert token.logprob == pytest.approx(logprobs[place, token.id].item(), abs=1e-4)
        best = logprobs[place].topk(4)
        assert [i for i, _, _ in token.top] == best.indices.tolist()
        assert [p for _, _, p in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert [data for _, data, _ in token.top] == [letters.spell(i) for i, _, _ in token.top]
    scored = run(model, letters, start, replace(options, prompt_logprobs=True, tokens=0))
    assert (scored.text, scored.drawn, scored.reason) == ("", 0, "length")
    assert [t.logprob for t in scored.prompt] == [t.logprob for t in text.prompt]


def test_a_full_context_ends_a_text_that_asks_for_it(letters: Tokenizer) -> None:
    model = make("gpt2")
    text = run(model, letters, go_on(letters, "abcd"), replace(PLAIN, tokens=99, past="stop"))
    assert (text.reason, text.drawn) == ("length", CONTEXT - 4 + 1)
    full = run(model, letters, go_on(letters, "a" * CONTEXT), replace(PLAIN, past="stop"))
    assert (full.reason, full.drawn) == ("length", 1)
    engine, long = Engine(model, letters, 1), go_on(letters, "a" * 25)
    for options in (replace(PLAIN, past="stop"), replace(PLAIN, prompt_logprobs=True)):
        with pytest.raises(UserError, match="the prompt has 25 tokens, and the model's context 24"):
            engine.add(long, options)
    with pytest.raises(UserError, match="the prompt has no token"):
        engine.add(Start([], ""), PLAIN)  # as of a template that says nothing
    assert not engine.busy


def test_what_begins_a_text_stays_at_its_front(
    letters: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, read = make("qwen2"), []
    monkeypatch.setattr(letters, "begin", (7, 8))
    forward = model.read
    monkeypatch.setattr(model, "read", lambda ids, *more: read.append(ids) or forward(ids, *more))
    text = run(model, letters, go_on(letters, "to be"), replace(PLAIN, tokens=70))
    prompts = [ids[0].tolist() for ids in read if ids.shape[1] > 1]
    said = [token.id for token in text.tokens]
    # 7 of the prompt and 17 more fill the context; one that is drawn is not read yet
    assert prompts[0] == [7, 8, *letters.encode("to be")][:-1]
    assert prompts[1] == [7, 8, *said[8:17]]
    assert all(ids[:2] == [7, 8] for ids in prompts)


def test_a_prompt_of_several_samples_is_read_once(
    letters: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, start = make("llama"), go_on(letters, "to be or not")
    options = [replace(PLAIN, temperature=1.5).nth(index) for index in range(5)]
    alone = [run(model, letters, start, one).text for one in options]
    assert len(set(alone)) == 5
    forward, read = model.read, []
    monkeypatch.setattr(
        model, "read", lambda ids, *more: read.append(ids.shape[1]) or forward(ids, *more)
    )
    engine = Engine(model, letters, 4)
    texts = [engine.add(start, one) for one in options]
    engine.step()
    assert [length for length in read if length > 1] == [11]
    finish(engine)
    assert [text.text for text in texts] == alone


def test_memory_is_for_what_texts_have_and_not_for_what_they_may(
    letters: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_file, "AHEAD", 2)
    model, start = make("qwen3"), go_on(letters, "abcd")
    engine, held = Engine(model, letters, 4), []
    text = engine.add(start, replace(PLAIN, tokens=40))
    while engine.busy:
        engine.step()
        _, rows, _, tokens, _ = engine.cache.store.shape
        held.append((rows, tokens))
    # 4 tokens and 13 more are past the first block; two have the whole context
    assert held == [(1, 16)] * 13 + [(1, 32)] * 27
    assert [token.id for token in text.tokens] == plainly(model, start.ids, 40)
    several = [engine.add(start, PLAIN) for _ in range(5)]
    finish(engine)
    assert engine.cache.store.shape[1] == 4
    assert {one.text for one in several} == {text.text[:20]}


def test_prompts_that_are_scored_hold_nobody_up_for_long(letters: Tokenizer) -> None:
    engine = Engine(make("qwen3"), letters, 3)
    runs = engine.add(go_on(letters, "a"), PLAIN)
    scored = replace(PLAIN, tokens=0, logprobs=0, prompt_logprobs=True)
    waits = [engine.add(go_on(letters, "abc"), scored) for _ in range(5)]
    steps = [[text for text in engine.step() if text is not runs] for _ in range(3)]
    assert steps == [waits[:2], waits[2:4], waits[4:]]
    assert runs.drawn == 3


def test_a_slot_is_free_when_its_text_is_dropped(letters: Tokenizer) -> None:
    engine = Engine(make("gpt2"), letters, 1)
    first, second, third = (engine.add(go_on(letters, c), PLAIN) for c in "abc")
    assert engine.step() == [first]
    engine.drop(second)
    engine.drop(first)
    assert engine.step() == [third]
    finish(engine)
    assert (first.reason, second.reason, second.text, third.drawn) == (None, None, "", 20)
    engine.drop(third)  # which has ended
    assert engine.step() == []


def test_a_damaged_model_is_told(letters: Tokenizer) -> None:
    model = make("gpt2")
    with torch.no_grad():
        model.head.weight[3, 3] = torch.nan
    with pytest.raises(UserError, match=r"NaN or infinite logits: its weights are damaged$"):
        run(model, letters, go_on(letters, "to be"), PLAIN)


def test_what_is_too_large_for_float16_is_told(letters: Tokenizer) -> None:
    models = [make("gpt2", torch.float32), make("gpt2", torch.float16)]
    for model in models:
        with torch.no_grad():
            model.blocks[0].mlp.up.weight.mul_(1e7)
    assert run(models[0], letters, go_on(letters, "to be"), PLAIN).text
    with pytest.raises(UserError, match=r"too large for float16; try machine\.dtype float32$"):
        run(models[1], letters, go_on(letters, "to be"), PLAIN)


def test_what_was_not_finite_is_met_by_no_later_text(letters: Tokenizer) -> None:
    model, long, short = (
        make("qwen3"),
        go_on(letters, "to be or not to be"),
        go_on(letters, "to be"),
    )
    want = run(model, letters, short, PLAIN).text
    engine = Engine(model, letters, slots=2)
    scale = model.blocks[0].attention.k_norm.weight
    before = scale.clone()
    with torch.no_grad():
        scale.fill_(torch.nan)
    lost = engine.add(long, PLAIN)
    assert engine.step() == [lost]
    assert "NaN" in str(lost.error)
    with torch.no_grad():
        scale.copy_(before)
    # in the place of the one that is lost, beside a longer one: with a mask
    text, beside = engine.add(short, PLAIN), engine.add(long, PLAIN)
    finish(engine)
    assert (beside.reason, text.text) == ("length", want)


@pytest.mark.parametrize("scored", [False, True])
def test_what_fails_ends_no_text_beside_it(
    letters: Tokenizer, monkeypatch: pytest.MonkeyPatch, scored: bool
) -> None:
    model = make("qwen3")
    known = run(model, letters, go_on(letters, "to be"), PLAIN)
    with torch.no_grad():
        model.embedding.weight[letters.encode("#")] = torch.inf  # as of too large a weight
    forward = model.read

    def read(ids: torch.Tensor, *more: Any) -> torch.Tensor:
        if letters.encode("!")[0] in ids:
            much = torch.zeros(1)
            held.append(weakref.ref(much))
            raise MemoryError
        return forward(ids, *more)

    held: list[weakref.ref[torch.Tensor]] = []
    monkeypatch.setattr(model, "read", read)
    engine = Engine(model, letters, 3)
    texts = [engine.add(go_on(letters, "to be"), PLAIN)]
    engine.step()
    options = replace(PLAIN, logprobs=1, prompt_logprobs=scored)
    texts += [engine.add(go_on(letters, prompt), options) for prompt in ("a#b", "a!b")]
    texts += [engine.add(go_on(letters, "to be"), PLAIN) for _ in range(2)]
    while engine.busy:
        engine.step()
    assert [text.text for text in texts] == [known.text, "", "", known.text, known.text]
    assert [type(text.error) for text in texts[1:3]] == [UserError, MemoryError]
    assert not any(text.error for text in (texts[0], *texts[3:]))
    assert [what() for what in held] == [None]


def test_a_negative_seed_is_one_of_its_own(letters: Tokenizer) -> None:
    model, start = make("gpt2"), go_on(letters, "to be")
    texts = {
        run(model, letters, start, replace(PLAIN, temperature=2.0, seed=seed)).text
        for seed in (-(2**63), -2, -1, 1, 2)
    }
    assert len(texts) == 5


def test_seeds_of_samples() -> None:
    options = replace(PLAIN, seed=7)
    seeds = [options.nth(index).seed for index in range(100)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 100
    assert not set(seeds[1:]) & {replace(PLAIN, seed=8).nth(index).seed for index in range(100)}
