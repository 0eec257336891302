"""A base model's tokenizer: the one place that says what its ids are and what stands around a text.

    library = open_library(folder)      # of the package tokenizers
    around = conventions(folder, library)
    document = [*around.begin, *(i for ids, _ in windows(library, text) for i in ids), around.end]

Tokens, samples and exports are all made with it, so that they agree with each other and with
transformers.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import models

from nanogpt.common.errors import UserError

EOT = "<|endoftext|>"
# an instruction-tuned model's own end ends a turn of talk; these end a document of plain text
ENDS = EOT, "<|end_of_text|>"
WINDOW = 1 << 18  # characters that the library gets at once: it needs 160 bytes and more for each
OVERLAP = 1 << 12  # of two windows
NO_ID = 1 << 31  # more than any token has


@dataclass(frozen=True)
class Conventions:
    """The tokens that stand around a text, and those that no text contains."""

    begin: tuple[int, ...]  # before each text
    end: int | None  # after each document; None: nothing says which
    special: dict[str, int]  # what is spelled like one is ordinary text


def open_library(folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a model directory without the traces of its last use: no text is cut or
    padded, none has other ids the next time.

    Raises:
        UserError: it is damaged.
        FileNotFoundError: there is no tokenizer.json.
    """
    path = folder / "tokenizer.json"
    data = path.read_bytes()
    try:
        library = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"{path} is damaged, or not a tokenizer: {error}") from None
    library.no_truncation()
    library.no_padding()
    if isinstance(library.model, models.BPE):
        library.model.dropout = None
    return library


def conventions(folder: Path, library: tokenizers.Tokenizer) -> Conventions:
    """What the tokenizer of a model directory puts around a text: what its tokenizer.json does.

    `settle` has seen to it that tokenizer_config.json says the same.

    Raises:
        UserError: it ends a text with several tokens, or names an end that it does not have.
    """
    blank = tokenizers.Tokenizer(models.WordLevel({"x": NO_ID}, unk_token="x"))
    if library.post_processor:
        blank.post_processor = library.post_processor
    ids = blank.encode("x").ids
    place = ids.index(NO_ID)
    begin, ends = ids[:place], ids[place + 1 :]
    if len(ends) > 1:
        raise UserError(
            f"{folder / 'tokenizer.json'}: its post_processor ends a text with {len(ends)} tokens,"
            " and one ends a document here; take another model"
        )
    if not ends:
        ends = [i for text in ENDS if (i := library.token_to_id(text)) is not None]
    if not ends and (eos := named(folder, "eos_token")) is not None:
        ends = [i for i in [library.token_to_id(eos)] if i is not None]
        if not ends:
            raise UserError(
                f"tokenizer.json has no token {eos!r}, which a file beside it names as eos_token;"
                " load the tokenizer with transformers' AutoTokenizer and save it again"
            )
    added = library.get_added_tokens_decoder()
    special = {token.content: i for i, token in added.items() if token.special}
    return Conventions(tuple(begin), ends[0] if ends else None, special)


def settle(folder: Path) -> str | None:
    """Have the files of a base's tokenizer agree on what begins a text.

    tokenizer_config.json may say `add_bos_token`, and so do transformers 4 and llama.cpp's
    converter; transformers 5 does what the post_processor of tokenizer.json does. A token that
    either of the two puts before texts was there in training, so both then do.

    Returns:
        What a person is to know of it; None: they agreed.

    Raises:
        UserError: a file is damaged, or it names no token that tokenizer.json has.
    """
    path = folder / "tokenizer_config.json"
    about = read_object(path)
    said = about.get("add_bos_token")
    if said is not None and not isinstance(said, bool):
        raise UserError(f"{path}: add_bos_token: {said!r} is neither true nor false")
    library = open_library(folder)
    begin = conventions(folder, library).begin
    if said is True and not begin:
        token = named(folder, "bos_token")
        number = None if token is None else library.token_to_id(token)
        if token is None or number is None:
            raise UserError(
                f"{path} says add_bos_token, and tokenizer.json has no token {token!r}, its"
                " bos_token; name the one that began texts in training, or take that key away"
            )
        _begin_with(folder / "tokenizer.json", token, number)
        return f"each text begins with {token!r}, as tokenizer_config.json says"
    # transformers 4 puts one before a Llama's texts unless told not to
    unsaid = said is None and not begin and str(about.get("tokenizer_class")).startswith("Llama")
    if unsaid or (said is False and begin):
        write_object(path, about | {"add_bos_token": bool(begin)})
    if said is False and begin:
        return "each text begins with a token of its own, as tokenizer.json says"
    return None


def _begin_with(path: Path, token: str, number: int) -> None:
    """Have the post_processor of a tokenizer.json put a token before each text."""
    values = read_object(path)
    old = values.get("post_processor")
    steps = old["processors"] if old and old["type"] == "Sequence" else [old] if old else []
    whole = [step for step in steps if step["type"] == "TemplateProcessing"]
    if not whole:
        text = [{"Sequence": {"id": "A", "type_id": 0}}]
        pair = [*text, {"Sequence": {"id": "B", "type_id": 1}}]
        whole = [{"type": "TemplateProcessing", "single": text, "pair": pair, "special_tokens": {}}]
        steps = steps + whole
    for key in ("single", "pair"):
        whole[0][key].insert(0, {"SpecialToken": {"id": token, "type_id": 0}})
    whole[0]["special_tokens"][token] = {"id": token, "ids": [number], "tokens": [token]}
    write_object(path, values | {"post_processor": {"type": "Sequence", "processors": steps}})


def windows(
    library: tokenizers.Tokenizer, text: str
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int64]]]:
    """The ids of a text and of nothing around it; of a long one a window at a time, to save memory.

    Beside them, which characters each stands for: (ids, 2), from one up to another.

    Windows overlap. Where two have the same tokens in the middle half of what they share, the first
    is cut there and the second goes on; else, as in a long run of blanks, the first is made longer.
    """
    begin, cut, stop = 0, 0, WINDOW
    ids, places = _window(library, text, begin, stop)
    while stop < len(text):
        again = stop - OVERLAP
        more, more_places = _window(library, text, again, again + WINDOW)
        shared = again + OVERLAP // 4, stop - OVERLAP // 4
        starts, more_starts = places[:, 0], more_places[:, 0]
        ours, theirs = np.searchsorted(starts, shared), np.searchsorted(more_starts, shared)
        a, b = slice(*ours), slice(*theirs)
        same = np.array_equal(ids[a], more[b]) and np.array_equal(starts[a], more_starts[b])
        # a character may be of several tokens, which begin at the same place
        inner = np.flatnonzero(np.diff(starts[a])) + 1
        if same and len(inner):
            place = inner[len(inner) // 2]
            yield ids[: ours[0] + place], places[: ours[0] + place]
            ids, places = more[theirs[0] + place :], more_places[theirs[0] + place :]
            begin, cut, stop = again, int(places[0, 0]), again + WINDOW
        else:
            stop = begin + 2 * (stop - begin)
            ids, places = _window(library, text, begin, stop)
            ids, places = ids[places[:, 0] >= cut], places[places[:, 0] >= cut]
    yield ids, places


def _window(
    library: tokenizers.Tokenizer, text: str, begin: int, stop: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The ids of part of a text, and where in the text each begins and ends."""
    found = library.encode(text[begin:stop], add_special_tokens=False)
    places = np.array(found.offsets, np.int64).reshape(-1, 2)
    return np.array(found.ids, np.uint32), places + begin


def named(folder: Path, name: str) -> str | None:
    """The text of the token that goes by a name, as the files beside tokenizer.json say."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = read_object(folder / file).get(name)
        if token is not None:
            return str(token["content"] if isinstance(token, dict) else token)
    return None


def read_object(path: Path) -> dict[str, Any]:
    """What a file beside tokenizer.json says; nothing, where there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not an object of keys and values")
    return values


def write_object(path: Path, values: dict[str, Any]) -> None:
    """Write a file that `read_object` reads."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")
