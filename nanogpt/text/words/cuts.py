"""Where a long text may be cut, so that its parts have the ids of the whole.

No pattern that is known here (GPT-2's, SmolLM2's, Llama 3's, Qwen's) has a match with a character
and a blank behind it, unless the blank ends a line, and none with a letter or digit and a blank or
punctuation behind it. What a pattern looks ahead at stands behind blanks. So there a match ends and
another begins, whatever stands further left or right, and pairs are merged inside of matches only.
"""

import re

# punctuation: ASCII's, general, Chinese and Japanese, and the wide forms of ASCII's
PUNCTUATION = r"!-/:-@\[-`{-~\u2010-\u2027\u3001-\u3003\u3008-\u3011\uff01-\uff0f\uff1a-\uff20"
# Python's [^\W_] are letters and numbers of any script, its \s all that is a blank to others
CUT = re.compile(rf"(?<=\S) |(?<=[^\W_])[\s{PUNCTUATION}]")


def cut(text: str, near: int, far: int | None = None) -> int | None:
    """The first such index from `near` on, up to `far` (None: the end); None: there is none."""
    found = CUT.search(text, max(near, 1), len(text) if far is None else far)
    return found and found.start()
