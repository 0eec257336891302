"""Whatever a model writes, the page of its samples is read back as it was."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.text.samples import Question, from_markdown, questions, to_markdown
from nanogpt.text.talks.chat import Conversation, Message
from nanogpt.text.tokens import HeldOut

ODD = st.text("`#\n a", max_size=40) | st.text(st.characters(codec="utf-8"), max_size=9)


@given(st.lists(ODD | st.just("## Sample 1\n\n```text\nx\n```\n"), max_size=4))
def test_samples_come_back(texts: list[str]) -> None:
    named = {f"Sample {number}": text for number, text in enumerate(texts, start=1)}
    assert from_markdown(to_markdown("Samples of plays", named)) == named


def test_a_fence_in_a_sample_does_not_close_its_block() -> None:
    page = to_markdown("Samples", {"Sample 1": "```python\nx\n```"})
    assert page == "# Samples\n\n## Sample 1\n\n````text\n```python\nx\n```\n````\n"


def test_questions_of_the_held_out_text() -> None:
    talk = Conversation(
        tuple(
            Message(*said)
            for said in [("user", "2 + 2?"), ("assistant", "4"), ("user", "Sure?"), ("user", "So?")]
        )
    )
    longer = Conversation((*talk.messages, Message("assistant", " Yes. ")))
    unasked = Conversation((Message("assistant", "How can I help?"),))
    said = unasked.to_json(), talk.to_json(), "a plain text", longer.to_json()
    text = HeldOut.of("talks", *said)
    assert questions(text, 9) == []
    text = replace(text, conversations=np.array([True, True, False, True]))
    first, second = questions(text, 9)
    assert questions(text, 1) == [first]
    assert first == Question(talk.messages[:1], "4")
    assert second == Question(talk.messages, " Yes. ")
    assert first.shown("five\n") == "[user]\n2 + 2?\n\n[assistant]\nfive\n\n[in the corpus]\n4"
