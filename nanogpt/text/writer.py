"""raw/ → tokens/: the vocabulary, the three splits, and every text to ids on all cores.

    manifest = tokenize(raw, out, settings.tokenize)

The corpus is read twice, in chunks. The first reading finds every fault before the long work and
says what each document is; then it is decided where each goes, and what the vocabulary is. In the
second each chunk becomes a shard, and the shards, in the order of the corpus, the splits. So memory
holds little of the text, whatever the corpus, and the result does not depend on how many work, or
where, or whether they were killed in between.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt.common.errors import UserError
from nanogpt.common.files import whole_folder
from nanogpt.common.groups import cores
from nanogpt.common.manifest import write_manifest
from nanogpt.common.memory import return_freed_memory
from nanogpt.common.progress import bar
from nanogpt.settings import Tokenize
from nanogpt.text.checks import contract, scripts
from nanogpt.text.checks.profile import Profile, shortened
from nanogpt.text.checks.proof import Proof
from nanogpt.text.checks.survey import Survey, Surveyor, noted, warn
from nanogpt.text.raw import open_raw
from nanogpt.text.talks import template
from nanogpt.text.talks.chat import columns
from nanogpt.text.tokens import SPLITS, TokensManifest, TokensPart
from nanogpt.text.words.byte_pairs import BPETokenizer
from nanogpt.text.words.library import EOT
from nanogpt.text.words.tokenizer import load
from nanogpt.text.words.vocabulary import char_json, gpt2_json, train_bpe, write
from nanogpt.text.writing import first, second, splits
from nanogpt.text.writing.chunks import Chunk, plan
from nanogpt.text.writing.corpus import Corpus
from nanogpt.text.writing.scratch import scratch
from nanogpt.text.writing.split_writer import SplitWriter
from nanogpt.text.writing.workers import workers

Map = Callable[..., Iterator[Any]]
TOTALS = "tokens", "counted", "bytes"


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
    Killed in between, it goes on with the shards that it finds in `state` beside `out`.

    Raises:
        UserError: `raw` is no raw folder, a document cannot be read, or there are too few.
        OSError: the disk is full, `out` cannot be written, or a worker was killed.
    """
    raw, out = raw.absolute(), out.absolute()
    source = open_raw(raw)
    chunks = plan(raw, source)
    size = sum(chunk.size for chunk in chunks)
    with whole_folder(out) as folder, workers(executor, size, processes or cores()) as run:
        special = {EOT} | _given_tokenizer(folder, raw, settings)
        surveyor = Surveyor(settings.tokenizer == "char", special)
        survey, texts = _read(chunks, surveyor, settings.near_duplicates != "ignore", run)
        survey.tell(raw)
        if survey.documents == 0:
            raise UserError(f"{raw}: the corpus {source.corpus} has no text; choose another one")
        corpus = Corpus(chunks, texts, [part.name for part in source.parts], settings)
        copies = corpus.where.copies
        contract.check(
            settings.expect,
            scripts.by_name(survey.scripts),
            documents=int(corpus.sizes.sum()),
            bytes=corpus.bytes,
            duplicate_share=copies / survey.documents,
            unknown_share=survey.replaced / int(survey.scripts.sum()),
        )

        chats = [bool(columns(part.reading.text_field)) for part in source.parts]
        alone = survey.documents == 1 and not any(chats)
        if settings.tokenizer == "char":
            write(folder, char_json(survey.characters, eot=not alone))
        elif settings.tokenizer == "bpe":
            assert settings.vocab_size
            write(folder, train_bpe(corpus.trained(), settings.vocab_size, corpus.bytes))
        sha256 = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
        asked = settings.model_dump(mode="json", exclude={"expect"})
        key = source.model_dump(mode="json"), asked, sha256
        with scratch(out.parent / "state", *key) as shards, ExitStack() as stack:
            encoder = _encoder(folder, shards, alone, masked=any(chats))
            return_freed_memory()  # of the tokenizer, which workers open
            writers = (SplitWriter(folder, name, encoder.masked) for name in SPLITS)
            files = [stack.enter_context(writer) for writer in writers]
            proof = _encode(corpus, encoder, files, run)
            stack.close()
            proof.check()
            found = {file.name: file.summary(corpus.train_sha256) for file in files}
            tokens, counted, sizes = (
                sum(getattr(split, of) for split in found.values()) for of in TOTALS
            )
            contract.check(
                settings.expect,
                tokens=tokens,
                bytes_per_token=sizes / max(1, counted),  # of conversations both are of answers
                unknown_share=proof.unknown / tokens,
            )
            splits.check_shares(found, settings)
            manifest = TokensManifest(
                dtype=encoder.dtype,
                vocab_size=encoder.vocab_size,
                tokenizer=settings.tokenizer,
                tokenizer_sha256=sha256,
                corpus=source.corpus,
                corpus_digest=source.digest,
                begin=encoder.begin,
                eot=encoder.eot,
                turn_end=encoder.turn_end,
                masked=encoder.masked,
                splits=found,
                parts=tuple(
                    TokensPart(
                        name=part.name,
                        conversations=chats[i],
                        splits={file.name: file.extent(i) for file in files},
                    )
                    for i, part in enumerate(source.parts)
                ),
                profile=_profile(raw, survey, corpus, files, proof),
            )
            write_manifest(folder, manifest)
    return manifest


def _profile(
    raw: Path, survey: Survey, corpus: Corpus, files: list[SplitWriter], proof: Proof
) -> Profile:
    """What the text is, by both readings."""
    return Profile(
        characters=int(survey.scripts.sum()),
        scripts=scripts.by_name(survey.scripts),
        replaced=survey.replaced,
        odd=noted(raw, survey.odd),
        skipped=noted(raw, survey.skipped),
        copies=corpus.where.copies,
        near_copies=corpus.where.near,
        sizes=shortened(corpus.sizes),
        lengths=shortened(np.sum([file.lengths for file in files], axis=0)),
        unknown=proof.unknown,
        turned_back=proof.texts,
        changed=proof.changed,
    )


def _given_tokenizer(folder: Path, raw: Path, settings: Tokenize) -> set[str]:
    """Write the tokenizer, if it is not made of the text; returns its special tokens."""
    match settings.tokenizer:
        case "base":
            shutil.copytree(raw / "vocabulary", folder, dirs_exist_ok=True)
            return set(load(folder).special)
        case "gpt2":
            write(folder, gpt2_json(raw / "vocabulary"))
    return set()


def _read(
    chunks: list[Chunk], surveyor: Surveyor, with_near: bool, run: Map
) -> tuple[Survey, list[first.Facts]]:
    """The first reading: what the corpus is, and its texts, by chunk."""
    survey, last, texts = Survey(), Survey(), []
    look = partial(first.read, surveyor=surveyor, with_near=with_near)
    with bar(sum(chunk.size for chunk in chunks), "read", "B") as progress:
        for chunk, found in zip(chunks, run(look, chunks), strict=True):
            if found.begun:
                last |= found.begun
            if found.last:
                survey += last
                survey += found.whole
                last = found.last
            texts.append(found.facts)
            progress.update(chunk.size)
    survey += last
    return survey, texts


def _encoder(folder: Path, shards: Path, alone: bool, masked: bool) -> second.Encoder:
    """How texts are encoded with the tokenizer in a folder."""
    tokenizer, turn_end = load(folder), None
    if masked:
        template.ensure(folder, tokenizer)
        turn_end = template.open_template(folder, tokenizer).end
        if turn_end is None:
            warn("the chat template ends an answer with no token, so a model cannot learn to stop")
    if not alone and tokenizer.eot is None:
        warn("nothing says which token of the base ends a document, so none stands there")
    if isinstance(tokenizer, BPETokenizer):
        tokenizer.pairs.save(shards / second.PAIRS)
    return second.Encoder(
        folder,
        shards,
        vocab_size=tokenizer.vocab_size,
        begin=tokenizer.begin,
        eot=tokenizer.eot,
        turn_end=turn_end,
        ends=not alone and tokenizer.eot is not None,
        masked=masked,
    )


def _encode(corpus: Corpus, encoder: second.Encoder, files: list[SplitWriter], run: Map) -> Proof:
    """The second reading: a shard of each chunk that has none yet, then all in the splits."""
    places = [encoder.shards / f"{i:08d}" for i in range(len(corpus.chunks))]
    chunks = list(zip(corpus.chunks, corpus.places, places, strict=True))
    todo = [task for task in chunks if not task[2].exists()]
    if len(todo) < len(chunks):
        print(f"tokenize: goes on, {len(chunks) - len(todo):,} of {len(chunks):,} shards are there")
    made = iter(
        run(partial(second.encode, encoder=encoder), *zip(*todo, strict=True)) if todo else ()
    )
    proof, missing = Proof(), {shard for _, _, shard in todo}
    with bar(sum(chunk.size for chunk in corpus.chunks), "tokenize", "B") as progress:
        for chunk, _, shard in chunks:
            if shard in missing:
                next(made)
            facts = second.read_facts(shard)
            for file in files:
                if file.name in facts.parts:
                    file.append(shard, facts.parts[file.name], chunk.part)
            proof += facts.proof
            progress.update(chunk.size)
    return proof
