"""raw/ → tokens/: the vocabulary, the three splits, and every text to ids on all cores.

    manifest = tokenize(raw, out, settings.tokenize)

The corpus is read twice. The first reading finds every fault before the long work, counts the
documents and collects their characters. In the second each worker writes the ids of its part to
files of its own, which are appended in the order of the corpus: so memory holds one document a
worker, whatever the corpus, and the result does not depend on how many work, or where.
"""

import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanogpt.common.errors import UserError
from nanogpt.common.files import whole_folder
from nanogpt.common.groups import cores
from nanogpt.common.manifest import write_manifest
from nanogpt.common.progress import bar
from nanogpt.settings import Tokenize
from nanogpt.text.documents import Piece, documents, pieces
from nanogpt.text.library import EOT
from nanogpt.text.proof import Proof
from nanogpt.text.raw import open_raw
from nanogpt.text.split_writer import Part, SplitWriter
from nanogpt.text.splits import check_copies, check_shares, split_documents, split_text
from nanogpt.text.survey import Survey, survey, warn
from nanogpt.text.tokenizer import Tokenizer, char_json, gpt2_json, load, write
from nanogpt.text.tokens import (
    DTYPES,
    HELD_OUT,
    SPLITS,
    Dtype,
    TokensManifest,
)

CHUNK = 1 << 21  # bytes of text in a task, about: what is under way ends soon after Ctrl-C
SMALL = 1 << 24  # bytes of text that are done before other processes could start


def tokenize(
    raw: Path,
    out: Path,
    settings: Tokenize,
    executor: Executor | None = None,
    processes: int | None = None,
) -> TokensManifest:
    """Fill `out` with the token files of the corpus in `raw`; returns their manifest.

    `out` appears, or is replaced, only when all of it is there. `executor` does the work, for
    example Dask's `client.get_executor()`, whose workers must see both folders under the same
    paths; without one, so many `processes` (None: one a core), or this one if the corpus is small.

    Raises:
        UserError: `raw` is no raw folder, a document cannot be read, or there are too few.
        OSError: the disk is full, `out` cannot be written, or a worker was killed.
    """
    raw, out = raw.absolute(), out.absolute()
    source = open_raw(raw)
    chunks = [Chunk(raw, source.text_field, some) for some in _chunks(pieces(raw, source.files))]
    size = sum(chunk.size for chunk in chunks)
    with whole_folder(out) as folder, _workers(executor, size, processes or cores()) as run:
        special = {EOT}
        if settings.tokenizer == "base":
            shutil.copytree(raw / "vocabulary", folder, dirs_exist_ok=True)
            special |= _tokenizer(folder, _sha256(folder)).special.keys()
        elif settings.tokenizer == "gpt2":
            write(folder, gpt2_json(raw / "vocabulary"))
        counts, corpus = [], Survey()
        with bar(size, "read", "B") as progress:
            of_characters = settings.tokenizer == "char"
            look = partial(Chunk.survey, characters=of_characters, special=special)
            for chunk, found in zip(chunks, run(look, chunks), strict=True):
                counts.append(found.documents)
                corpus += found
                progress.update(chunk.size)
        corpus.tell(raw)
        total = corpus.documents
        if total == 0:
            raise UserError(f"{raw}: the corpus {source.corpus} has no text; choose another one")

        if settings.tokenizer == "char":
            write(folder, char_json(corpus.characters, eot=total > 1))
        sha256 = _sha256(folder)
        encoder = _tokenizer(folder, sha256)
        if total > 1 and encoder.eot is None:
            warn("nothing says which token of the base ends a document, so none stands there")
        dtype: Dtype = "uint16" if encoder.vocab_size <= 1 << 16 else "uint32"

        prefixes = [str(folder / f"{i:08d}") for i in range(len(chunks))]
        shards: Iterable[Shard]
        if total == 1:
            texts = split_text(next(chain.from_iterable(map(Chunk.documents, chunks))), settings)
            parts = [(i, text) for i, text in enumerate(texts) if text]
            shards = [_encode(parts, prefixes[0], encoder, dtype, eot=None)]
        else:
            labels = np.split(split_documents(total, settings), np.cumsum(counts)[:-1])
            encode = partial(_encode_chunk, folder=folder, sha256=sha256, dtype=dtype)
            shards = run(encode, chunks, labels, prefixes)
        proof = Proof()
        with ExitStack() as stack, bar(size, "tokenize", "B") as progress:
            splits = [stack.enter_context(SplitWriter(folder, name)) for name in SPLITS]
            for chunk, prefix, shard in zip(chunks, prefixes, shards, strict=False):
                for split, part in zip(splits, shard.parts, strict=True):
                    split.append(f"{prefix}.{split.name}", part)
                proof += shard.proof
                progress.update(chunk.size)

        manifest = TokensManifest(
            dtype=dtype,
            vocab_size=encoder.vocab_size,
            tokenizer=settings.tokenizer,
            tokenizer_sha256=sha256,
            corpus=source.corpus,
            corpus_digest=source.digest,
            begin=encoder.begin,
            eot=encoder.eot,
            splits={split.name: split.summary() for split in splits},
        )
        proof.check()
        if total > 1:
            check_shares(manifest.splits, settings)
            check_copies({split.name: np.concatenate(split.heads) for split in splits})
        write_manifest(folder, manifest)
    return manifest


@dataclass(frozen=True)
class Chunk:
    """The part of the corpus that is one task."""

    raw: Path
    text_field: str
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)

    def documents(self) -> Iterator[str]:
        for piece in self.pieces:
            yield from documents(self.raw, self.text_field, piece)

    def survey(self, characters: bool, special: set[str]) -> Survey:
        return survey(self.raw, self.text_field, self.pieces, characters, special)


def _chunks(pieces: Iterable[Piece]) -> Iterator[tuple[Piece, ...]]:
    chunk, size = [], 0
    for piece in pieces:
        chunk.append(piece)
        size += piece.size
        if size >= CHUNK:
            yield tuple(chunk)
            chunk, size = [], 0
    if chunk:
        yield tuple(chunk)


@dataclass
class Shard:
    """What a task made."""

    parts: list[Part]  # one for each of SPLITS
    proof: Proof


def _encode_chunk(
    chunk: Chunk, labels: NDArray[np.uint8], prefix: str, folder: Path, sha256: str, dtype: str
) -> Shard:
    encoder = _tokenizer(folder, sha256)
    texts = zip(labels.tolist(), chunk.documents(), strict=True)
    return _encode(texts, prefix, encoder, dtype, encoder.eot)


def _encode(
    texts: Iterable[tuple[int, str]], prefix: str, encoder: Tokenizer, dtype: str, eot: int | None
) -> Shard:
    """Write (index of SPLITS, text) to <prefix>.<split>: what begins a text, its ids, `eot`.

    The texts themselves go to <prefix>.<split>.text, but for those of train.
    """
    shard = Shard([Part() for _ in SPLITS], Proof())
    begin = np.array(encoder.begin, DTYPES[dtype])
    end = np.array([] if eot is None else [eot], DTYPES[dtype])
    with ExitStack() as stack:
        files = [stack.enter_context(open(f"{prefix}.{name}", "wb")) for name in SPLITS]
        kept = {
            SPLITS.index(name): stack.enter_context(open(f"{prefix}.{name}.text", "wb"))
            for name in HELD_OUT
        }
        for label, text in texts:
            ids = encoder.encode_array(text)
            shard.proof.look(encoder, text, ids)
            for some in (begin, ids.astype(DTYPES[dtype]), end):
                files[label].write(some.data)
            data = text.encode("utf-8")
            part = shard.parts[label]
            part.lengths.append(len(begin) + len(ids) + len(end))
            part.sizes.append(len(data))
            if label in kept:
                kept[label].write(data)
            part.digests += hashlib.sha256(data).digest()
    return shard


def _sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()


@lru_cache(maxsize=1)
def _tokenizer(folder: Path, sha256: str) -> Tokenizer:
    # the digest keeps a worker that outlives a run, as Dask's do, from using that run's tokenizer
    return load(folder)


@contextmanager
def _workers(
    executor: Executor | None, size: int, processes: int
) -> Iterator[Callable[..., Iterator[Any]]]:
    """The `map` that does the work, results in order: the executor's, processes', Python's own."""
    if executor:
        yield executor.map
    elif size < SMALL or processes == 1:
        yield map
    else:
        # spawn: a fork would copy the thread of the progress bar in an unknown state
        context = multiprocessing.get_context("spawn")
        try:
            workers = ProcessPoolExecutor(processes, context, _start_worker)
        except (
            OSError
        ) as error:  # their semaphores are in shared memory, which a container may lack
            said = f"tokenize: one process does it all: none can be shared with ({error.strerror})"
            print(f"{said}; is there a /dev/shm that can be written?", file=sys.stderr)
            yield map
            return
        with workers as pool:
            try:
                yield pool.map
            except BrokenProcessPool:
                raise OSError("a worker was killed, perhaps for want of memory") from None
            finally:
                pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends its workers
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Without this a worker would wait for ever for the next task of a killed parent."""
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
