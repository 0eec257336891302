"""What a recipe expects of its text (`tokenize.expect`), and whether that is so.

check(expect, documents=3, bytes=1_000, scripts={"Latin": 800, "Common": 200})
check(expect, tokens=400, bytes_per_token=2.5)      # as soon as they are known
"""

from collections.abc import Iterator, Mapping

from nanogpt.common.errors import UserError
from nanogpt.settings import Expect
from nanogpt.text.checks.profile import NO_LETTERS

SHOWN = 5  # scripts in a message


def check(expect: Expect | None, scripts: Mapping[str, int] | None = None, **found: float) -> None:
    """Compare what was found, by the keys of `tokenize.expect` without their min_ or max_.

    Args:
        scripts: characters by Unicode's script.

    Raises:
        UserError: it is not what was expected; names each such key with what was found.
    """
    if expect is None:
        return
    broken = [*_figures(expect, found)]
    if scripts is not None and expect.scripts:
        broken += _scripts(expect.scripts, expect.max_other_scripts or 0, scripts)
    if broken:
        raise UserError(
            "the text is not what tokenize.expect says:"
            + "".join(f"\n  {said}" for said in broken)
            + "\nbring another text, or expect something else"
        )


def _figures(expect: Expect, found: Mapping[str, float]) -> Iterator[str]:
    for key, wanted in expect.model_dump(exclude_none=True).items():
        bound, _, name = key.partition("_")
        if name not in found:
            continue
        actual = found[name]
        if actual < wanted if bound == "min" else actual > wanted:
            least = "least" if bound == "min" else "most"
            yield f"{key}: at {least} {_shown(name, wanted)} expected, {_shown(name, actual)} found"


def _scripts(expected: list[str], most: float, found: Mapping[str, int]) -> Iterator[str]:
    letters = {name: count for name, count in found.items() if name not in NO_LETTERS}
    total = sum(letters.values())
    others = {name: count for name, count in letters.items() if name not in expected}
    share = sum(others.values()) / total if total else 0
    if total and share <= most:
        return
    names = [f"{name} {_shown('share', count / total)}" for name, count in letters.items()]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    yield (
        f"scripts: {' or '.join(expected)} expected, and at most {_shown('share', most)} of the"
        f" letters of others; found {', '.join(names[:SHOWN]) or 'no letters'}{more}"
    )


def _shown(name: str, value: float) -> str:
    if name.endswith("share"):
        return f"{100 * value:.3g}%"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
