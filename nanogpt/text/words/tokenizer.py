"""Text ↔ ids: one id a character, byte pairs, or what a base model brings.

    tokenizer = load(folder)                            # what nanogpt.text.words.vocabulary wrote
    tokenizer.decode(tokenizer.encode("ROMEO:")) == "ROMEO:"

A tokenizer is its tokenizer.json, which the Hugging Face libraries read with the same ids. Here a
table looks characters up and tiktoken merges byte pairs: each many times faster than those
libraries, which do all others.
"""

import json
from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.common.memory import return_freed_memory
from nanogpt.text.words.byte_pairs import BPETokenizer, proven
from nanogpt.text.words.encoders import CharTokenizer, HubTokenizer, Tokenizer
from nanogpt.text.words.facts import is_char
from nanogpt.text.words.library import conventions, open_library

__all__ = ["Tokenizer", "load"]


def load(folder: Path) -> Tokenizer:
    """Read folder/tokenizer.json: one that was made here, or a base model's.

    Raises:
        UserError: there is none, or it is damaged.
    """
    tokenizer = _load(folder)
    return_freed_memory()  # a third of what is in use: what the file says was taken apart
    return tokenizer


def _load(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    try:
        library = open_library(folder)
        around = conventions(folder, library)
        values = json.loads(library.to_str())
        if is_char(values):
            return CharTokenizer(values["model"]["vocab"], around)
        if pairs := proven(library, values, around):
            return BPETokenizer(pairs)
        return HubTokenizer(library, around, values)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name a folder of tokens or a model") from None
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises nothing more special
        raise UserError(f"{path} is damaged, or not a tokenizer: {error!r}") from None
