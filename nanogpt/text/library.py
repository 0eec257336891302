"""A base model's tokenizer: the one place that says what its ids are and what stands around a text.

    library = open_library(folder)      # of the package tokenizers
    around = conventions(folder, library)
    document = [*around.begin, *encode(library, text)[0], around.end]

Tokens, samples and exports are all made with it, so that they agree with each other and with
transformers.
"""

import json
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

    transformers 5 does not look at `add_bos_token` of tokenizer_config.json where there is one.

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
    if not ends and (eos := _eos(folder)) is not None:
        ends = [i for i in [library.token_to_id(eos)] if i is not None]
        if not ends:
            raise UserError(
                f"tokenizer.json has no token {eos!r}, which a file beside it names as eos_token;"
                " load the tokenizer with transformers' AutoTokenizer and save it again"
            )
    added = library.get_added_tokens_decoder()
    special = {token.content: i for i, token in added.items() if token.special}
    return Conventions(tuple(begin), ends[0] if ends else None, special)


def encode(
    library: tokenizers.Tokenizer, text: str
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The ids of a text and of nothing around it; of a long one in windows, to save memory.

    Beside them, which characters each stands for: (ids, 2), from one up to another.

    Windows overlap. Where two have the same tokens in the middle half of what they share, the first
    is cut there and the second goes on; else, as in a long run of blanks, the first is made longer.
    """
    begin, cut, stop = 0, 0, WINDOW
    ids, places = _window(library, text, begin, stop)
    parts = []
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
            parts.append((ids[: ours[0] + place], places[: ours[0] + place]))
            ids, places = more[theirs[0] + place :], more_places[theirs[0] + place :]
            begin, cut, stop = again, int(places[0, 0]), again + WINDOW
        else:
            stop = begin + 2 * (stop - begin)
            ids, places = _window(library, text, begin, stop)
            ids, places = ids[places[:, 0] >= cut], places[places[:, 0] >= cut]
    all_ids, all_places = zip(*parts, (ids, places), strict=True)
    return np.concatenate(all_ids), np.concatenate(all_places)


def _window(
    library: tokenizers.Tokenizer, text: str, begin: int, stop: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The ids of part of a text, and where in the text each begins and ends."""
    found = library.encode(text[begin:stop], add_special_tokens=False)
    places = np.array(found.offsets, np.int64).reshape(-1, 2)
    return np.array(found.ids, np.uint32), places + begin


def _eos(folder: Path) -> str | None:
    """The text of the token that ends a text, as the files beside tokenizer.json say."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _read(folder / file).get("eos_token")
        if token is not None:
            return str(token["content"] if isinstance(token, dict) else token)
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    return values if isinstance(values, dict) else {}
