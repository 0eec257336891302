"""A sample begins and ends as the base's makers began and ended texts, and no letter is lost."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import processors
from torch import Tensor

from nanogpt.architecture import GPTConfig
from nanogpt.commands.sample import Typist
from nanogpt.common.errors import UserError
from nanogpt.generation import engine
from nanogpt.generation.generate import generate
from nanogpt.generation.options import Options
from nanogpt.model import GPT
from nanogpt.text.prompt import Start, go_on
from nanogpt.text.words.tokenizer import Tokenizer, load
from nanogpt.text.words.vocabulary import gpt2_json
from tests.kit.brought import llama2
from tests.text.test_tokenizer import train_vocabulary

OPTIONS = Options(tokens=20, temperature=1.0, seed=1)


def model_of(rows: int, eos: tuple[int, ...] = ()) -> GPT:
    model = GPT(
        GPTConfig("llama", rows, 64, 1, 2, 2, 16, 32, 8, tied=False, eos=eos or None)
    ).eval()
    with torch.no_grad():
        model.head.weight.zero_()  # every id is as likely as any other
    return model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Its decoder strips the first blank; `<s>` begins a text and `</s>` ends one."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = llama2()
    start = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[start])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "special_tokens_map.json").write_text('{"eos_token": {"content": "</s>"}}')
    return load(folder)


def said(
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: Tokenizer,
    prompt: str,
    ids: list[int],
    *own: int,
    show: Callable[[str], object] = lambda text: None,
) -> tuple[str, list[int]]:
    """The sample of a model that says these ids, and the ids that it was given first."""
    script = iter(ids)
    monkeypatch.setattr(engine, "draw", lambda *_: torch.tensor([next(script)]))
    given: list[int] = []
    model = model_of(tokenizer.vocab_size, own)
    forward = model.read

    def listen(read: Tensor, *rest: object, **options: object) -> object:
        given.extend(read[0].tolist())
        return forward(read, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "read", listen)
    options = replace(OPTIONS, tokens=len(ids))
    start = go_on(tokenizer, prompt)
    (text,) = generate(model, tokenizer, [start], [options], slots=1, show=show)
    return text, given


@pytest.mark.parametrize(
    ("prompt", "more", "text"),
    [
        ("the king", " of France", "the king of France"),
        ("the king\n", "of", "the king\nof"),
        ("the", "re", "there"),
        ("", "the king", "the king"),
        ("", "  the king", "  the king"),
        ("é", " ü👩", "é ü👩"),
    ],
)
def test_no_blank_is_lost(
    monkeypatch: pytest.MonkeyPatch, llama: Tokenizer, prompt: str, more: str, text: str
) -> None:
    ids = llama.encode(prompt + more)[len(llama.encode(prompt)) :]
    found, given = said(monkeypatch, llama, prompt, ids)
    assert found == text
    assert given[: 1 + len(llama.encode(prompt))] == [*llama.begin, *llama.encode(prompt)]


@pytest.mark.parametrize(
    "text", ["the king", "Größe: 大きさ 🙂🙃 é", "\N{REPLACEMENT CHARACTER} b \ufffd"]
)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_text_is_typed_as_it_grows_and_no_character_is_broken(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    llama: Tokenizer,
    kind: str,
    text: str,
) -> None:
    tokenizer = llama
    if kind == "gpt2":
        vocabulary = train_vocabulary(tmp_path / "vocabulary")
        (tmp_path / "tokenizer.json").write_text(gpt2_json(vocabulary))
        tokenizer = load(tmp_path)
    ids = tokenizer.encode(f"to be {text}")[len(tokenizer.encode("to be")) :]
    typist, pieces = Typist("title\n"), []

    def show(grown: str) -> None:
        typist(grown)
        pieces.append(capsys.readouterr().out)

    found, _ = said(monkeypatch, tokenizer, "to be", ids, show=show)
    typist.end(found)
    pieces.append(capsys.readouterr().out)
    assert "".join(pieces) == f"title\nto be {text}\n"
    assert len(pieces) == len(ids) + 1
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(pieces[:-1])
        assert pieces[-1] == "\n", "all of it was there by then"


def test_every_end_ends(monkeypatch: pytest.MonkeyPatch, llama: Tokenizer) -> None:
    hi, other = llama.encode("to"), llama.encode("x")[-1]
    assert llama.eot is not None
    for end in (llama.eot, 300, 301):
        found, given = said(monkeypatch, llama, "be", [*hi, end, other], 300, 301)
        assert found == "be to"
        assert end not in given, "nothing is read after it"


def test_rows_without_a_token_are_never_drawn(tmp_path: Path, llama: Tokenizer) -> None:
    values = json.loads(gpt2_json(train_vocabulary(tmp_path / "vocabulary")))
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    gpt2 = load(tmp_path)
    for tokenizer in (gpt2, llama):
        model = model_of(4 * tokenizer.vocab_size)
        for temperature in (0.0, 1.0):
            one = engine.Engine(model, tokenizer, slots=300)
            options = replace(OPTIONS, temperature=temperature, tokens=4)
            texts = [one.add(Start([0], ""), options.nth(index)) for index in range(300)]
            while one.busy:
                one.step()
            drawn = {token.id for text in texts for token in text.tokens}
            assert drawn <= tokenizer.ids
            assert len(drawn) > 300 or temperature == 0, "and the others are"


def test_a_tokenizer_of_another_model(llama: Tokenizer) -> None:
    with pytest.raises(UserError, match="only 100 rows: they do not belong together"):
        generate(model_of(100), llama, [go_on(llama, "to be")], [OPTIONS], slots=1)


def test_a_special_token_in_a_prompt_is_told(
    monkeypatch: pytest.MonkeyPatch, llama: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    said(monkeypatch, llama, "a<s>", llama.encode("to"))
    assert caplog.messages == [
        "the prompt has '<s>' written in it: read as letters, not as that token"
    ]


def test_a_prompt_longer_than_the_context_is_told(
    llama: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    long, short = Start([5] * 70, "long "), Start([5] * 64, "short ")
    starts = [long, short, long]  # two texts of one prompt
    texts = generate(model_of(llama.vocab_size), llama, starts, [OPTIONS] * 3, slots=2)
    assert texts[0].removeprefix("long ") == texts[1].removeprefix("short "), "its end is read"
    assert texts[2] == texts[0]
    assert caplog.messages == [
        "1 of 2 prompts are longer than the context of 64 tokens: up to 6 tokens at their"
        " beginning are not read"
    ]
