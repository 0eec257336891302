"""The tokenizer in a GGUF file: byte-level BPE read and written, a character vocabulary written.

    text = tokenizer_json(path, metadata)                       # a GGUF's keys → tokenizer.json
    add_tokenizer(writer, config, text, chat_template=None)     # and back

How llama.cpp reads these keys: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
"""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import gguf
from gguf import TokenType
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError

IDS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
}
# llama.cpp ends a text at any of these: of a document, of a turn, of a message
ENDS = IDS["eos"], "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"

# what a BPE of the tokenizers library may have, and llama.cpp's has not
NOT_PLAIN = "dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"

# how short forms end: in a tokenizer.json of Qwen's or Llama 3's; in llama.cpp, and in a vocabulary
# that is learned here. The first takes an s of 1700 (U+017F) for an s
SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPELLED = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"


@cache
def _splits() -> dict[str, Any]:
    """llama.cpp's names of the ways to cut a text before its pieces are merged."""
    words = (
        rf"{SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}DIGITS"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def cut(digits: str) -> pre_tokenizers.PreTokenizer:
        split = pre_tokenizers.Split(Regex(words.replace("DIGITS", digits)), "isolated")
        return pre_tokenizers.Sequence([split, letters])

    return {
        "gpt-2": gpt2,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2]),
        "llama-bpe": cut("{1,3}"),
        "qwen2": cut(""),
    }


def tokenizer_json(path: Path, metadata: dict[str, Any]) -> str:
    """Build the tokenizer.json of a file's byte-level BPE.

    Raises:
        UserError: the tokenizer is of another kind, or damaged.
    """
    kind, split = (metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind != "gpt2":
        raise UserError(f"{path}: the tokenizer is of kind {kind!r}; only 'gpt2' (BPE) is read")
    if split not in list(_splits()):
        known = ", ".join(_splits())
        raise UserError(f"{path}: tokenizer.ggml.pre: {split!r} is not known; known: {known}")
    try:
        tokens = metadata["tokenizer.ggml.tokens"]
        types = metadata.get("tokenizer.ggml.token_type", [TokenType.NORMAL] * len(tokens))
        typed = list(zip(tokens, types, strict=True))
        vocabulary = {t: i for i, (t, type) in enumerate(typed) if type != TokenType.UNUSED}
        merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
        model = models.BPE(vocabulary, merges, ignore_merges=split == "llama-bpe")
        whole = {TokenType.CONTROL: True, TokenType.USER_DEFINED: False}
        added = [AddedToken(t, normalized=False, special=whole[k]) for t, k in typed if k in whole]
        tokenizer = Tokenizer(model)
        tokenizer.add_tokens(added)
        tokenizer.pre_tokenizer = _splits()[split]
        tokenizer.decoder = decoders.ByteLevel()
        if _adds_bos(metadata):
            bos = metadata[IDS["bos"]]
            start = (tokens[bos], bos)
            tokenizer.post_processor = processors.TemplateProcessing(
                f"{tokens[bos]} $A", special_tokens=[start]
            )
    except Exception as error:  # the tokenizers library raises nothing more special
        raise UserError(f"{path}: the tokenizer is damaged: {error!r}; fetch it again") from None
    text: str = tokenizer.to_str(pretty=True)
    return text + "\n"


def tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer_config.json that belongs to `tokenizer_json`."""
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {name: metadata.get(key) for name, key in IDS.items()}
    known = {name: i for name, i in ids.items() if type(i) is int and i < len(tokens)}
    config = {f"{name}_token": tokens[i] for name, i in known.items()}
    if template := metadata.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": _adds_bos(metadata),
    }


def add_tokenizer(
    writer: gguf.GGUFWriter, config: GPTConfig, tokenizer_json: str, chat_template: str | None
) -> None:
    """Write the keys of a tokenizer.json, with the special ids of `config`.

    Raises:
        UserError: it does not fit the model, or llama.cpp has none that gives the same ids.
    """
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"tokenizer.json is damaged, or not a tokenizer: {error}") from None
    values = json.loads(tokenizer.to_str())  # with what older files leave out
    model = values["model"]
    spelled: dict[str, str] = {}
    special = [token["content"] for token in values["added_tokens"] if token["special"]]
    characters = model["type"] == "WordLevel" and all(
        len(text) == 1 or text in special for text in model["vocab"]
    )
    if characters and special:
        # characters as a BPE whose merges do nothing but join the bytes of each; without any,
        # llama.cpp does not load it, so there is one that cannot happen
        kind, split, spelled = "gpt2", "gpt-2", _by_letters(set(model["vocab"]) - {*special})
        pairs = (f"{s[:n]} {s[n]}" for s in spelled.values() for n in range(1, len(s)))
        merges = list(dict.fromkeys(pairs)) or [f"{special[0]} {special[0]}"]
    elif characters:
        # a BPE ends with token 11 where it names no end; of RWKV's kind, where the longest token
        # that fits is taken, no token is special
        if not all(map(str.isascii, model["vocab"])):
            raise UserError(
                "a vocabulary of characters beyond ASCII and without an end of document cannot be"
                " exported to GGUF: llama.cpp would never end on some texts; train on at least two"
                " documents, or export it with --format hf"
            )
        escapes = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"})
        kind, split, merges = "rwkv", "default", []
        spelled = {text: text.translate(escapes) for text in model["vocab"]}
    else:
        kind, split, merges = "gpt2", _split_name(tokenizer, model), model["merges"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    # a matrix may have more rows than the tokenizer has ids, and llama.cpp wants a name for each
    tokens = [f"[PAD{i}]" for i in range(config.vocab_size)]
    types = [TokenType.UNUSED] * config.vocab_size
    for text, i in tokenizer.get_vocab().items():
        if i >= config.vocab_size:
            raise UserError(
                f"the tokenizer's {text!r} has id {i}, and the model {config.vocab_size} tokens"
            )
        tokens[i], types[i] = spelled.get(text, text), TokenType.NORMAL
    for token in values["added_tokens"]:
        types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    ends = config.eos if isinstance(config.eos, tuple) else (config.eos,)
    ids = {IDS["bos"]: config.bos, IDS["pad"]: config.pad}
    ids |= dict(zip(ENDS, ends, strict=False))
    if len(ends) > len(ENDS):
        raise UserError(
            f"the model has {len(ends)} tokens that end a text, and GGUF has keys for {len(ENDS)};"
            " export it with --format hf"
        )
    for key, number in ids.items():
        if number is not None and number >= config.vocab_size:
            raise UserError(f"{key} would be {number}, and there are {config.vocab_size} tokens")
        if number is not None:
            writer.add_uint32(key, number)
    tokenizer.no_padding()  # of its maker's last text
    around = tokenizer.encode("").ids
    if around not in ([], [config.bos]):
        raise UserError(
            f"the tokenizer puts the tokens {around} around a text, where bos_token_id is"
            f" {config.bos}; GGUF has that alone, so export it with --format hf"
        )
    writer.add_add_bos_token(bool(around))
    if chat_template:
        writer.add_chat_template(chat_template)


def _split_name(tokenizer: Tokenizer, model: dict[str, Any]) -> str:
    """llama.cpp's name of the way in which a byte-level BPE cuts texts."""
    # it leaves out NFC, which changes no text that is already composed
    normalized = tokenizer.normalizer is None or isinstance(tokenizer.normalizer, normalizers.NFC)
    plain = model["type"] == "BPE" and not any(model.get(key) for key in NOT_PLAIN)
    if plain and normalized and tokenizer.pre_tokenizer:
        for name, split in _splits().items():
            whole = bool(model.get("ignore_merges")) == (name == "llama-bpe")
            if whole and _parts(split) == _parts(tokenizer.pre_tokenizer):
                return name
    raise UserError(
        "the tokenizer is neither one of characters nor a BPE that cuts texts as one of"
        f" {', '.join(_splits())} does, which llama.cpp knows; export it with --format hf"
    )


def _parts(pre_tokenizer: pre_tokenizers.PreTokenizer) -> list[dict[str, Any]]:
    """What a pre-tokenizer does, without what concerns offsets alone, or is spelled in two ways."""
    blank = Tokenizer(models.BPE())
    blank.pre_tokenizer = pre_tokenizer
    values = json.loads(blank.to_str())["pre_tokenizer"]
    parts = values.get("pretokenizers", [values])
    for part in parts:
        part.pop("trim_offsets", None)
        if "Regex" in part.get("pattern", {}):
            part["pattern"]["Regex"] = part["pattern"]["Regex"].replace(SPELLED, SHORT)
    return list(parts)


def _by_letters(texts: Iterable[str]) -> dict[str, str]:
    """Texts → the letters by which GPT-2's BPE names their bytes."""
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return {text: letters.pre_tokenize_str(text)[0][0] for text in sorted(texts)}


def _adds_bos(metadata: dict[str, Any]) -> bool:
    """Whether texts begin with a token of their own; llama.cpp's default depends on the kind."""
    default = metadata.get("tokenizer.ggml.pre") == "llama-bpe"
    return bool(metadata.get("tokenizer.ggml.add_bos_token", default))
