"""What a tokenizer.json says, and whether it is of a kind that is known here to the last word.

A fast path is for a file that says the very same as one that was made here. What a later version of
the library adds is a difference, too.
"""

import json
from typing import Any

from tiktoken_ext.openai_public import r50k_pat_str  # type: ignore[import-untyped]

from nanogpt.text.words.library import EOT
from nanogpt.text.words.vocabulary import WORDS, bpe_json, char_json, words

FLAGS = {"add_prefix_space", "trim_offsets", "use_regex"}  # of a byte level

SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # in Llama 3's and Qwen's pattern; in ours:
SPELLED = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
NFC = {"type": "NFC"}


def is_char(values: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is what `char_json` writes, in whatever order the characters are."""
    eot = bool(values["added_tokens"])
    if _facts(values) != _facts(json.loads(char_json("a", eot))):
        return False
    texts = sorted(values["model"]["vocab"], key=values["model"]["vocab"].__getitem__)
    ids = sorted(values["model"]["vocab"].values())
    characters = texts[:-1] if eot else texts
    return (
        ids == list(range(len(texts)))
        and all(len(text) == 1 for text in characters)
        and texts[len(characters) :] == [EOT] * eot
    )


def pattern(values: dict[str, Any]) -> str | None:
    """tiktoken's pattern of the words that a byte-level BPE merges in; None: it is of another kind.

    The patterns match what the library's do, with quantifiers that give nothing back where giving
    back cannot help, which is faster.
    """
    said, known = _facts(values), _facts(json.loads(bpe_json([], words())))
    for place in ("pre_tokenizer", "normalizer", "added_tokens"):
        known[place] = said[place]
    known["model"]["ignore_merges"] = said["model"].get("ignore_merges")
    if said != known or said["normalizer"] not in (None, NFC) or not _plain(values["added_tokens"]):
        return None
    return next((found for steps, found in _patterns() if steps == _steps(values)), None)


def _patterns() -> list[tuple[list[dict[str, Any]], str]]:
    level: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False}
    digits: dict[str, Any] = {"type": "Digits", "individual_digits": True}
    # as GPT-2's, but for digits, each of which is a word: what stands before it is a text's end
    smollm = (
        r"\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?[^\s\p{L}\p{N}]++"
        r"|\s++$|\s++(?=\p{N})|\s+(?!\S)|\s"
    )
    known = [
        ([level | {"use_regex": True}], r50k_pat_str),
        ([digits, level | {"use_regex": True}], smollm),
    ]
    for short in (SPELLED, SHORT):
        for number in (r"\p{N}", r"\p{N}{1,3}"):
            theirs = WORDS.replace(SPELLED, short).replace(r"|\p{N}|", rf"|{number}|")
            split: dict[str, Any] = {"type": "Split", "pattern": {"Regex": theirs}}
            split |= {"behavior": "Isolated", "invert": False}
            ours = (
                rf"{short}|[^\r\n\p{{L}}\p{{N}}]?+\p{{L}}++|{number}"
                r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s*[\r\n]++|\s+(?!\S)|\s++"
            )
            known.append(([split, level | {"use_regex": False}], ours))
    return known


def _steps(values: dict[str, Any]) -> list[dict[str, Any]]:
    """What a pre_tokenizer does, without what concerns offsets alone."""
    said = values["pre_tokenizer"] or {}
    steps = said.get("pretokenizers", [said])
    return [{k: v for k, v in step.items() if k != "trim_offsets"} for step in steps]


def _plain(added: list[dict[str, Any]]) -> bool:
    """Whether the tokens that are found in texts (those that are not special) are found wherever
    they are written, by whoever looks for them."""
    whole = [token for token in added if not token["special"]]
    texts = [token["content"] for token in added]
    return (
        all(texts)
        and len(set(texts)) == len(texts)
        and len({token["normalized"] for token in whole}) < 2
        and all(token["content"].isascii() for token in whole)
        and not any(token[key] for token in whole for key in ("single_word", "lstrip", "rstrip"))
        and not any(
            _meet(token["content"], text)
            for token in whole
            for text in texts
            if text != token["content"]
        )
    )


def _meet(one: str, other: str) -> bool:
    """Whether two texts can share a place of a third."""
    ends = any(
        first.endswith(second[:length])
        for first, second in ((one, other), (other, one))
        for length in range(1, len(second) + 1)
    )
    return ends or one in other or other in one


def _facts(values: dict[str, Any]) -> dict[str, Any]:
    """All that a tokenizer.json says but its words, and what changes no id and no text."""
    model = {k: v or None for k, v in values["model"].items() if k not in ("vocab", "merges")}
    added = [{**token, "id": None, "normalized": None} for token in values["added_tokens"]]
    # what stands around a text is not these classes' work
    facts = values | {"model": model, "added_tokens": added, "post_processor": None}
    # GPT-2's files have these flags in other states, and here they concern offsets alone
    if (values["decoder"] or {}).get("type") == "ByteLevel":
        facts["decoder"] = {k: v for k, v in values["decoder"].items() if k not in FLAGS}
    return facts
