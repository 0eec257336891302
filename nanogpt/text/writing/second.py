"""The second reading of a chunk: its ids, in a shard, which is a folder of its own.

    encode(chunk, place, shard, encoder)
    facts = read_facts(shard)

A shard holds, of each split that has some of the chunk, <split>.bin, perhaps <split>.counted.bin
and, if it is held out, <split>.text; and facts.npz. It is there whole or not at all, so a run that
was killed goes on with those that it finds.
"""

import json
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt.common.files import whole_folder
from nanogpt.text.checks.proof import Proof
from nanogpt.text.talks.chat import Conversation
from nanogpt.text.talks.template import Template, open_template
from nanogpt.text.tokens import COUNTED, DTYPES, HELD_OUT, SPLITS, Dtype, Name
from nanogpt.text.words.byte_pairs import BPETokenizer, read_pairs
from nanogpt.text.words.tokenizer import Tokenizer, load
from nanogpt.text.writing.chunks import Chunk
from nanogpt.text.writing.stretches import Place, Stretch, stretches

FACTS = "facts.npz"
BATCH = 1 << 18  # characters of texts that are encoded one right after another, about
PAIRS = "pairs.npz"  # beside the shards, where the tokenizer is of byte pairs


@dataclass(frozen=True)
class Encoder:
    """How all chunks are encoded; small, to be sent to any worker."""

    folder: Path  # of the tokenizer
    shards: Path
    vocab_size: int
    begin: tuple[int, ...]  # ids that begin a document
    eot: int | None  # the id that ends one
    turn_end: int | None  # the id that ends an answer
    ends: bool  # whether what ends a document stands after each
    masked: bool

    @property
    def dtype(self) -> Dtype:
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    @lru_cache(maxsize=1)  # noqa: B019 - of a worker, where all of a run are equal
    def tokenizer(self) -> Tokenizer:
        pairs = self.shards / PAIRS
        return BPETokenizer(read_pairs(pairs)) if pairs.exists() else load(self.folder)

    @lru_cache(maxsize=1)  # noqa: B019
    def template(self) -> Template:
        """How conversations are read, if there are any."""
        return open_template(self.folder, self.tokenizer())


@dataclass
class Part:
    """What a shard has of one split, in the order of the corpus."""

    goes_on: bool  # whether the first text is of the last document of a shard before
    counted: int = 0  # tokens that the loss counts
    bytes: int = 0  # of the text that they stand for
    lengths: "array[int]" = field(default_factory=lambda: array("q"))  # tokens of each text
    sizes: "array[int]" = field(default_factory=lambda: array("q"))  # bytes of each in UTF-8


@dataclass
class Facts:
    """What is known of a shard."""

    proof: Proof = field(default_factory=Proof)
    parts: dict[Name, Part] = field(default_factory=dict)


def encode(chunk: Chunk, place: Place, shard: Path, encoder: Encoder) -> None:
    """Read a chunk for the second time, and write its shard."""
    facts, dtype, tokenizer = Facts(), DTYPES[encoder.dtype], encoder.tokenizer()
    none = np.array([], dtype)
    begin = np.array(encoder.begin, dtype)
    end = np.array([encoder.eot], dtype) if encoder.ends else none
    with whole_folder(shard) as folder, ExitStack() as stack:
        files: dict[str, Any] = {}

        def write(name: str, data: Any) -> None:
            if name not in files:
                files[name] = stack.enter_context((folder / name).open("wb"))
            files[name].write(data)

        for stretch, own in _encoded(stretches(chunk, place, tokenizer.cut), tokenizer):
            name, text, starts = SPLITS[stretch.label], stretch.text, stretch.begins
            if isinstance(text, Conversation):
                data, found = text.to_json().encode(), encoder.template().render(text)
                for one in text.messages:
                    facts.proof.look(tokenizer, one.content, tokenizer.encode_array(one.content))
                ids, size = found.ids.astype(dtype), found.bytes
                mask, counted = found.counted, int(np.count_nonzero(found.counted))
            else:
                data = text.encode()
                facts.proof.look(tokenizer, text, own)
                around = begin if starts else none, own, end if stretch.ends else none
                ids, size = np.concatenate(around, dtype=dtype), len(data)
                mask, counted = None, len(ids)
            write(f"{name}.bin", ids.data)
            if encoder.masked:
                mask = np.ones(len(ids), np.bool_) if mask is None else mask
                write(f"{name}.counted.bin", mask.astype(COUNTED).data)
            if name in HELD_OUT:
                write(f"{name}.text", data)
            if name not in facts.parts:
                facts.parts[name] = Part(goes_on=not starts)
            part = facts.parts[name]
            part.counted += counted
            part.bytes += size
            if starts or not part.lengths:
                part.lengths.append(0)
                part.sizes.append(0)
            part.lengths[-1] += len(ids)
            part.sizes[-1] += len(data)
        arrays: dict[str, Any] = {"proof": json.dumps(asdict(facts.proof))}
        for name, part in facts.parts.items():
            arrays[f"{name}.rest"] = [part.goes_on, part.counted, part.bytes]
            arrays[f"{name}.lengths"], arrays[f"{name}.sizes"] = part.lengths, part.sizes
        np.savez(folder / FACTS, **arrays)


def _encoded(
    found: Iterable[Stretch], tokenizer: Tokenizer
) -> Iterator[tuple[Stretch, NDArray[np.uint32]]]:
    """Stretches, each with the ids of its text; a conversation's are its template's work."""
    none = np.array([], np.uint32)
    for batch in _batches(found):
        texts = [stretch.text for stretch in batch]
        ids = [tokenizer.encode_array(text) if isinstance(text, str) else none for text in texts]
        yield from zip(batch, ids, strict=True)


def _batches(found: Iterable[Stretch]) -> Iterator[list[Stretch]]:
    """Short texts together: one right after another, they find tiktoken's tables in the cache."""
    batch: list[Stretch] = []
    size = 0
    for stretch in found:
        batch.append(stretch)
        size += len(stretch.text) if isinstance(stretch.text, str) else BATCH
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    yield batch


def read_facts(shard: Path) -> Facts:
    """What `encode` noted of a shard."""
    with np.load(shard / FACTS) as arrays:
        facts = Facts(Proof(**json.loads(str(arrays["proof"]))))
        for name in SPLITS:
            if f"{name}.rest" in arrays:
                goes_on, counted, size = arrays[f"{name}.rest"].tolist()
                lengths, sizes = arrays[f"{name}.lengths"], arrays[f"{name}.sizes"]
                part = Part(bool(goes_on), counted, size)
                part.lengths.frombytes(lengths.tobytes())
                part.sizes.frombytes(sizes.tobytes())
                facts.parts[name] = part
    return facts
