"""Texts as Markdown, and back: `samples.md`."""

import re


def to_markdown(heading: str, texts: dict[str, str]) -> str:
    """A page of texts by title, each in a fence that nothing in it can close."""
    blocks = []
    for title, text in texts.items():
        runs = re.findall("`+", text)
        fence = "`" * max(3, *(1 + len(run) for run in runs)) if runs else "```"
        blocks.append(f"## {title}\n\n{fence}text\n{text}\n{fence}\n")
    return f"# {heading}\n\n" + "\n".join(blocks)


def from_markdown(page: str) -> dict[str, str]:
    """The texts of such a page by title."""
    block = r"^## ([^\n]*)\n\n(`{3,})text\n(.*?)\n\2\n"
    return {found[1]: found[3] for found in re.finditer(block, page, re.DOTALL | re.MULTILINE)}
