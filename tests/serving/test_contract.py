"""OpenAI's own client is served as by OpenAI: whole, in pieces, sync and async."""

import asyncio
import math
import re
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.kit.served import CONTEXT, Served

ASKED: list[Any] = [{"role": "user", "content": "What is 3 plus 4?"}]
SAID = {"model": "talker", "messages": ASKED, "max_tokens": 12, "seed": 7}
TEXT = {"model": "talker", "prompt": "ROMEO:", "max_tokens": 12, "seed": 7}


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[OpenAI]:
    quiet = httpx.Client(trust_env=False)
    with OpenAI(
        base_url=f"{server.address}/v1", api_key=server.key, http_client=quiet, max_retries=0
    ) as client:
        yield client


def chat(client: OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**(SAID | more))


def text(client: OpenAI, **more: Any) -> Any:
    return client.completions.create(**(TEXT | more))


def refused(ask: Any, client: OpenAI, **more: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, **more)
    return caught.value


# ---- models


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["talker", "plain"]
    model = client.models.retrieve("plain")
    assert (model.id, model.object) == ("plain", "model")
    assert model.created > 1_700_000_000


@pytest.mark.parametrize("ask", [chat, text])
def test_an_unknown_model(ask: Any, client: OpenAI) -> None:
    error = refused(ask, client, model="talkre")
    assert isinstance(error, openai.NotFoundError)
    assert (error.code, error.param) == ("model_not_found", "model")
    assert "did you mean talker?" in error.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


# ---- the answer in one


def test_a_chat_answer(client: OpenAI) -> None:
    answer = chat(client)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "talker"
    assert re.fullmatch("fp_[0-9a-f]{16}", answer.system_fingerprint)
    (choice,) = answer.choices
    assert (choice.index, choice.message.role) == (0, "assistant")
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_text_goes_on(client: OpenAI) -> None:
    answer = text(client)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert not answer.choices[0].text.startswith("ROMEO:")
    assert answer.usage.prompt_tokens >= 1


@pytest.mark.parametrize("ask", [chat, text])
def test_the_same_seed_the_same_answer(ask: Any, client: OpenAI) -> None:
    def shown(**more: Any) -> list[Any]:
        return [choice.to_dict() for choice in ask(client, **more).choices]

    assert shown() == shown()
    assert shown() != shown(seed=8)
    assert shown(seed=None) != shown(seed=None)
    assert shown(seed=-(2**63)) == shown(seed=-(2**63))
    # the first of several is the one that comes alone
    many = shown(n=3)
    assert many[0] == shown()[0]
    assert [choice["index"] for choice in many] == [0, 1, 2]
    assert many[1] | {"index": 0} != many[0]


def test_max_tokens_ends_an_answer(client: OpenAI) -> None:
    answer = chat(client, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3
    named = {"max_tokens": openai.omit, "max_completion_tokens": 3}
    assert chat(client, **named).choices[0].to_dict() == answer.choices[0].to_dict()
    assert text(client, max_tokens=openai.omit).usage.completion_tokens <= 16


def test_an_answer_ends_with_the_context(client: OpenAI) -> None:
    answer = chat(client, max_tokens=openai.omit, logit_bias={})
    if answer.choices[0].finish_reason == "length":
        assert answer.usage.total_tokens >= CONTEXT
    on = text(client, max_tokens=3 * CONTEXT, model="plain", extra_body={"past_context": "half"})
    assert on.usage.completion_tokens == 3 * CONTEXT  # this vocabulary has nothing that ends a text
    off = text(client, max_tokens=3 * CONTEXT, model="plain")
    assert off.choices[0].finish_reason == "length"
    assert on.choices[0].text.startswith(off.choices[0].text)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("ask", [chat, text])
def test_a_stop_string(ask: Any, several: bool, client: OpenAI) -> None:
    def said(**more: Any) -> tuple[str, str]:
        choice = ask(client, model=model, max_tokens=40, **more).choices[0]
        return choice.text if ask is text else choice.message.content, choice.finish_reason

    model = "plain" if ask is text else "talker"
    whole, _ = said()
    stop = whole[4:6]
    assert said(stop=["\x00never", stop] if several else stop) == (
        whole[: whole.index(stop)],
        "stop",
    )


def test_a_temperature_of_0_is_the_likeliest(client: OpenAI) -> None:
    first, second = (text(client, temperature=0, seed=seed, logprobs=1) for seed in (1, 2))
    assert first.choices[0].text == second.choices[0].text
    logprobs = first.choices[0].logprobs
    for chosen, top in zip(logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert chosen == max(top.values())
    likeliest = text(client, seed=1, extra_body={"top_k": 1}).choices[0].text
    assert likeliest == first.choices[0].text
    assert text(client, seed=3, top_p=1e-6).choices[0].text == likeliest
    assert text(client, seed=3, extra_body={"min_p": 1}).choices[0].text == likeliest


def test_penalties_change_what_comes(client: OpenAI) -> None:
    asked = {"model": "plain", "temperature": 0, "max_tokens": 60}
    plain = text(client, **asked).choices[0].text
    for penalty in ({"presence_penalty": 2}, {"frequency_penalty": 2}):
        assert len({*text(client, **asked, **penalty).choices[0].text}) > len({*plain})
    other = text(client, **asked, extra_body={"repetition_penalty": 2}).choices[0].text
    assert len({*other}) > len({*plain})


# ---- prompts


def test_prompts_of_all_kinds(client: OpenAI) -> None:
    ids = [5, 9, 7]
    alone = [text(client, prompt=prompt).choices[0].text for prompt in ("ROMEO:", "What")]
    both = text(client, prompt=["ROMEO:", "What"], n=2)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert [both.choices[0].text, both.choices[2].text] == alone
    by_ids = text(client, prompt=ids)
    assert by_ids.usage.prompt_tokens == 3
    several = text(client, prompt=[ids, [4]])
    assert several.choices[0].text == by_ids.choices[0].text
    assert several.usage.prompt_tokens == 4
    # each prompt counts once, whatever n is
    assert both.usage.prompt_tokens == text(client, prompt=["ROMEO:", "What"]).usage.prompt_tokens


def test_an_empty_prompt_begins_a_text(client: OpenAI) -> None:
    assert text(client, prompt="").usage.completion_tokens >= 1
    assert text(client, prompt="").choices[0].text == text(client, prompt=[]).choices[0].text


def test_a_content_in_parts(client: OpenAI) -> None:
    parts = [{"type": "text", "text": "What is 3"}, {"type": "text", "text": " plus 4?"}]
    whole = chat(client).choices[0].message.content
    assert chat(client, messages=[{"role": "user", "content": parts}]).choices[
        0
    ].message.content == (whole)


def test_an_answer_is_sent_back_as_it_came(client: OpenAI) -> None:
    said = chat(client).choices[0].message
    typed = {"role": "assistant", "content": said.content}
    on = [chat(client, messages=[*ASKED, one, *ASKED]) for one in (said, said.model_dump(), typed)]
    assert on[0].choices == on[1].choices == on[2].choices


def test_a_developer_is_the_system(client: OpenAI) -> None:
    said = [
        chat(client, messages=[{"role": role, "content": "Be brief."}, *ASKED])
        for role in ("system", "developer")
    ]
    assert said[0].choices[0].message.content == said[1].choices[0].message.content
    assert said[0].usage == said[1].usage
    assert said[0].usage.prompt_tokens > chat(client).usage.prompt_tokens


def test_special_tokens_in_a_prompt_are_text(client: OpenAI) -> None:
    """Nobody ends a turn by writing so."""
    mark = "<|endoftext|>"
    few = chat(client, messages=[{"role": "user", "content": "hi"}]).usage.prompt_tokens
    more = chat(client, messages=[{"role": "user", "content": f"hi{mark}"}]).usage.prompt_tokens
    assert more >= few + 8
    assert text(client, prompt=mark).usage.prompt_tokens >= 8


# ---- probabilities


def test_log_probabilities_of_a_text(client: OpenAI) -> None:
    choice = text(client, logprobs=3, model="plain").choices[0]
    found = choice.logprobs
    assert "".join(found.tokens) == choice.text
    assert all(logprob <= 0 for logprob in found.token_logprobs)
    assert all(3 <= len(top) <= 4 for top in found.top_logprobs)
    shares = [math.exp(value) for value in found.top_logprobs[0].values()]
    assert 0 < sum(shares) <= 1.0001
    assert found.text_offset == [*range(6, 6 + len(choice.text))]


def test_log_probabilities_of_a_prompt(client: OpenAI) -> None:
    choice = text(client, logprobs=0, echo=True, model="plain").choices[0]
    assert choice.text.startswith("ROMEO:")
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in choice.logprobs.token_logprobs[1:])
    assert choice.logprobs.text_offset == [*range(len(choice.text))]
    scored = text(client, logprobs=0, echo=True, model="plain", max_tokens=0)
    assert scored.choices[0].text == "ROMEO:"
    assert scored.choices[0].logprobs.tokens == [*"ROMEO:"]
    assert scored.usage.completion_tokens == 0
    none = text(client, prompt="", logprobs=0, echo=True, max_tokens=4).choices[0].logprobs
    assert none.tokens[0] == "<|endoftext|>", "it begins the text, and is no part of it"
    assert none.text_offset[:2] == [0, 0]


def test_log_probabilities_of_a_chat(client: OpenAI) -> None:
    choice = chat(client, logprobs=True, top_logprobs=2, temperature=0).choices[0]
    content = choice.logprobs.content
    stands = bytes(byte for token in content for byte in token.bytes)
    assert stands.decode(errors="replace") == choice.message.content
    for token in content:
        assert len(token.top_logprobs) == 2
        assert token.logprob == token.top_logprobs[0].logprob
    bare = chat(client, logprobs=True).choices[0].logprobs.content
    assert all(token.top_logprobs == [] for token in bare)
    assert chat(client).choices[0].logprobs is None


# ---- in pieces


def test_a_chat_in_pieces(client: OpenAI) -> None:
    pieces = [*chat(client, stream=True)]
    first, *others = pieces
    assert first.choices[0].delta.role == "assistant"
    assert not any(piece.choices[0].delta.role for piece in others)
    assert {piece.object for piece in pieces} == {"chat.completion.chunk"}
    assert len({(piece.id, piece.created, piece.system_fingerprint) for piece in pieces}) == 1
    assert all(piece.usage is None for piece in pieces)
    whole = chat(client).choices[0]
    told = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert told == whole.message.content
    reasons = [piece.choices[0].finish_reason for piece in pieces]
    assert reasons == [None] * (len(pieces) - 1) + [whole.finish_reason]


def test_a_text_in_pieces(client: OpenAI) -> None:
    pieces = [*text(client, stream=True, echo=True, logprobs=1)]
    whole = text(client, echo=True, logprobs=1).choices[0]
    assert "".join(piece.choices[0].text for piece in pieces) == whole.text
    assert whole.text.startswith("ROMEO:")
    tokens = [token for piece in pieces for token in piece.choices[0].logprobs.tokens]
    assert tokens == whole.logprobs.tokens
    offsets = [place for piece in pieces for place in piece.choices[0].logprobs.text_offset]
    assert offsets == whole.logprobs.text_offset


@pytest.mark.parametrize("ask", [chat, text])
def test_usage_in_pieces_if_asked_for(ask: Any, client: OpenAI) -> None:
    *pieces, last = ask(client, stream=True, stream_options={"include_usage": True}, n=2)
    assert last.choices == []
    assert last.usage == ask(client, n=2).usage
    assert all(piece.usage is None for piece in pieces)
    for off in ({"include_usage": False}, {"include_usage": None, "include_obfuscation": False}):
        assert all(piece.choices for piece in ask(client, stream=True, stream_options=off))


def test_several_in_pieces(client: OpenAI) -> None:
    told = {0: "", 1: "", 2: ""}
    reasons = []
    for piece in chat(client, stream=True, n=3):
        (choice,) = piece.choices
        told[choice.index] += choice.delta.content or ""
        reasons += [choice.index] if choice.finish_reason else []
    whole = chat(client, n=3)
    assert told == {choice.index: choice.message.content for choice in whole.choices}
    assert sorted(reasons) == [0, 1, 2]


def test_the_end_of_each_in_pieces_is_said_once(client: OpenAI) -> None:
    asked = {"model": "plain", "max_tokens": 100, "stop": "e", "n": 4}
    pieces = [piece.choices[0] for piece in text(client, stream=True, **asked)]
    lengths = {len(choice.text) for choice in text(client, **asked).choices}
    assert len(lengths) == 4, "they end one after the other"
    last = {choice.index: place for place, choice in enumerate(pieces)}
    ended = {choice.index: place for place, choice in enumerate(pieces) if choice.finish_reason}
    assert ended == last
    assert len([choice for choice in pieces if choice.finish_reason]) == 4


def test_the_end_of_a_stream_is_said(server: Served) -> None:
    with (
        server.client() as raw,
        raw.stream("POST", "/v1/chat/completions", json=SAID | {"stream": True}) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"


def test_clients_at_once(server: Served) -> None:
    """The same request gives the same text beside others."""

    async def ask(client: AsyncOpenAI, seed: int) -> str:
        stream = await client.completions.create(**(TEXT | {"seed": seed, "stream": True}))
        return "".join([piece.choices[0].text async for piece in stream])

    async def all_of_them() -> tuple[list[str], list[str]]:
        quiet = httpx.AsyncClient(trust_env=False)
        async with AsyncOpenAI(
            base_url=f"{server.address}/v1", api_key=server.key, http_client=quiet
        ) as client:
            alone = [await ask(client, seed) for seed in range(6)]
            return alone, await asyncio.gather(*(ask(client, seed) for seed in range(6)))

    alone, together = asyncio.run(all_of_them())
    assert alone == together


# ---- what cannot be


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "4"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 4}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages[0].name"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"5": 100}}, "logit_bias"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
        ({"messages": [{"role": "user", "content": "long " * CONTEXT}]}, "messages"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_chat_that_cannot_be(more: dict[str, Any], param: str, client: OpenAI) -> None:
    error = refused(chat, client, **more)
    assert isinstance(error, openai.BadRequestError)
    assert error.param == param
    assert error.type == "invalid_request_error"
    assert param.split("[")[0].split(".")[0] in error.message


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"prompt": [999_999]}, "no token 999999"),
        ({"prompt": [["a"]]}, "list of token ids"),
        ({"prompt": "é", "model": "plain"}, "'é' (U+00E9) at position 0"),
        (
            {"prompt": "a" * (CONTEXT + 1), "model": "plain"},
            "context is 128 tokens",
        ),
        ({"logprobs": 6}, "logprobs"),
        ({"suffix": "end"}, "suffix is not supported"),
        ({"best_of": 2}, "best_of is not supported"),
        ({"prompt": ["a"] * 9, "n": 2}, "18 texts: at most 16"),
        ({"prompt": ["a" * 999] * 17}, "17 texts: at most 16"),
    ],
    ids=range(9),
)
def test_a_text_that_cannot_be(more: dict[str, Any], said: str, client: OpenAI) -> None:
    error = refused(text, client, **more)
    assert isinstance(error, openai.BadRequestError)
    assert said in error.message


def test_too_long_a_prompt_has_openais_code(client: OpenAI) -> None:
    assert refused(text, client, prompt="a" * 999).code == "context_length_exceeded"


def test_no_template_is_said(client: OpenAI) -> None:
    error = refused(chat, client, model="plain")
    assert "plain has no chat template" in error.message
    assert "/v1/completions" in error.message


def test_a_key_of_the_other_interface_is_not_known(client: OpenAI) -> None:
    error = refused(chat, client, extra_body={"prompt": "Who?"})
    assert (error.param, error.message.partition("is no key")[1]) == ("prompt", "is no key")


def test_what_changes_no_answer_is_passed_over(client: OpenAI) -> None:
    passed: dict[str, Any] = {"user": "me", "metadata": {"a": "b"}, "store": False, "tools": []}
    passed |= {"response_format": {"type": "text"}, "tool_choice": "none", "stop": None}
    passed |= {"prompt_cache_retention": "24h"}
    assert chat(client, **passed).choices[0].to_dict() == chat(client).choices[0].to_dict()


@pytest.mark.parametrize("key", ["wrong", "é"])
def test_a_wrong_key(key: str, server: Served) -> None:
    with server.client() as raw:
        answer = raw.get("/v1/models", headers={"Authorization": f"Bearer {key}".encode()})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_a_wrong_key_to_the_client(server: Served) -> None:
    quiet = httpx.Client(trust_env=False)
    with (
        OpenAI(base_url=f"{server.address}/v1", api_key="wrong", http_client=quiet) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()
