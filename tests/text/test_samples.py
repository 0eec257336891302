"""Whatever a model writes, the page of its samples is read back as it was."""

from hypothesis import given
from hypothesis import strategies as st

from nanogpt.text.samples import from_markdown, to_markdown

ODD = st.text("`#\n a", max_size=40) | st.text(st.characters(codec="utf-8"), max_size=9)


@given(st.lists(ODD | st.just("## Sample 1\n\n```text\nx\n```\n"), max_size=4))
def test_samples_come_back(texts: list[str]) -> None:
    named = {f"Sample {number}": text for number, text in enumerate(texts, start=1)}
    assert from_markdown(to_markdown("Samples of plays", named)) == named


def test_a_fence_in_a_sample_does_not_close_its_block() -> None:
    page = to_markdown("Samples", {"Sample 1": "```python\nx\n```"})
    assert page == "# Samples\n\n## Sample 1\n\n````text\n```python\nx\n```\n````\n"
