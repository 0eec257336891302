"""What a recipe's samples go on from."""

import json
from pathlib import Path

from nanogpt.stages.sample import ask
from nanogpt.text.tokens import open_tokens
from nanogpt.text.writer import tokenize
from tests.kit.recipes import quick
from tests.text.test_documents import make_raw, settings


def test_a_prompt_is_a_question_whatever_is_held_out(tmp_path: Path) -> None:
    """Here nobody asks: the assistant alone says something."""
    said = [{"role": "assistant", "content": f"Hello, number {number}."} for number in range(60)]
    lines = "".join(json.dumps({"messages": [one]}) + "\n" for one in said)
    raw = make_raw(tmp_path / "raw", {"talks.jsonl": lines}, "messages")
    tokenize(raw, tmp_path / "tokens", settings())
    tokens = open_tokens(tmp_path / "tokens")
    (asked,) = ask(quick(sample__prompt="number"), tokens)
    assert (asked.start.text, asked.prompt, asked.samples) == ("", "number", 2)
    assert asked.shown("Hello") == "[user]\nnumber\n\n[assistant]\nHello"
    (asked,) = ask(quick(), tokens)
    assert (asked.start.text, asked.prompt, asked.shown("Hello")) == ("", "", "Hello")
