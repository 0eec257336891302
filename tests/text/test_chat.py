"""Conversations in the forms that people have them in."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.settings import Fields
from nanogpt.text.talks.chat import Conversation, Message, columns, parse

ASKED = (
    Message("system", "Be brief."),
    Message("user", "Сколько будет 2 + 2?"),
    Message("assistant", "4"),
)
OPENAI = [{"role": message.role, "content": message.content} for message in ASKED]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: t.strip())


def test_forms() -> None:
    """OpenAI's, ShareGPT's, text in parts and JSON in a cell say the same."""
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    sharegpt = [{"from": names[m["role"]], "value": m["content"]} for m in OPENAI]
    parts = [{**m, "content": [{"type": "text", "text": m["content"]}], "id": 7} for m in OPENAI]
    for value in (OPENAI, sharegpt, parts, json.dumps(OPENAI), json.dumps(sharegpt)):
        assert parse({"messages": value}, "messages").messages == ASKED
        assert parse({"turns": value}, Fields(messages="turns")).messages == ASKED


def test_prompt_and_completion() -> None:
    pair = {"prompt": ASKED[1].content, "completion": ASKED[2].content}
    assert parse(pair, ["prompt", "completion"]).messages == ASKED[1:]
    lists = {"prompt": OPENAI[:2], "completion": OPENAI[2:]}
    assert parse(lists, ["prompt", "completion"]).messages == ASKED
    named = {"question": "[sic] what?", "answer": "[that]"}
    found = parse(named, Fields(prompt="question", completion="answer"))
    assert [m.content for m in found.messages] == ["[sic] what?", "[that]"]


def test_which_fields() -> None:
    assert columns("messages") == ("messages",)
    assert columns(["prompt", "completion"]) == ("prompt", "completion")
    assert columns(Fields(prompt="q", completion="a")) == ("q", "a")
    assert columns("text") == columns(["title", "body"]) == ()


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXT), min_size=1))
def test_json_and_back(turns: list[tuple[str, str]]) -> None:
    conversation = Conversation(tuple(Message(*turn) for turn in turns))
    line = conversation.to_json()
    assert "\n" not in line
    assert Conversation.from_json(line) == conversation


def turn(content: Any = "4", role: Any = "assistant", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | more


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("hello", "no conversation in 'messages'"),
        (None, "no conversation in 'messages'"),
        ([], "no message in 'messages'"),
        (["hello"], "message 1 in 'messages': 'hello' is no message"),
        (OPENAI[:2], "no message of the assistant"),
        ([turn(role="tool")], "is of 'tool', which should be system, user, assistant; calls of"),
        ([turn(role="developer")], "is of 'developer'"),
        ([turn(role={})], "is of {}"),
        ([{"from": "bot", "value": "4"}], "is of 'bot', which should be system, human, gpt"),
        ([*OPENAI, turn(None)], "message 4 in 'messages' has no content"),
        ([turn(4)], "its content 4 is no text"),
        ([turn(" \n")], "message 1 in 'messages' says nothing"),
        ([turn("half \ud800")], "cannot be read"),
        ([turn(tool_calls=[{"id": "1"}])], "'tool_calls', which is not read"),
        ([turn(weight=0)], "a weight that is not 1"),
        ([turn([{"type": "image_url"}])], "a part of kind 'image_url'; text alone"),
        ([turn([{"type": "text"}])], "a part of kind 'text'"),
        ("[" * 100_000, "no conversation in 'messages'"),
    ],
)
def test_refused(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse({"messages": value}, "messages")
