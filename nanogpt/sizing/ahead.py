"""What would stop a later stage, asked before the cost: before a fetch, before a training."""

import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.common.manifest import File
from nanogpt.settings import Settings
from nanogpt.sources import bases, corpora
from nanogpt.sources.fetch import Files, SourceError, real_path
from nanogpt.sources.hub_dataset import HubDataset
from nanogpt.text.documents import PIECE, pieces, texts
from nanogpt.text.kinds.found import Unreadable
from nanogpt.text.kinds.values import document_of
from nanogpt.text.prompt import prompt_ids, read_prompt
from nanogpt.text.raw import Reading, kind_of
from nanogpt.text.talks.chat import Message, columns
from nanogpt.text.talks.template import open_template
from nanogpt.text.tokens import Name, Tokens
from nanogpt.text.words import tokenizer

ROWS = 10  # of a data set, that are looked at
SHORT = 1000  # characters: as which what has no length is counted


def before_download(settings: Settings) -> str:
    """Refuse what no fetching can bring; returns what a reader should know of the corpus.

    Raises:
        UserError: a corpus or a base that is unknown, not there or of no kind that can be read; own
            texts whose beginning cannot be read; or a prompt's file that is not there or no text.
    """
    notes, talks = [], False
    for name, field in settings.download.parts:
        corpus = corpora.find(name, field)
        corpora.check_talks(name, corpus)
        talks |= bool(columns(corpus.text_field))
        for source in corpus.sources:
            reading = Reading.of(settings.download, corpus.text_field)
            if isinstance(source, Files):
                _refuse_own(source.paths, Path(settings.data))
                notes.append(_read_some(source.paths, reading))
            if isinstance(source, HubDataset):
                _look_at_rows(source, reading)
        notes.append(corpus.note)
    if settings.train.loss_on == "assistant" and not talks:
        raise UserError(
            "train.loss_on: 'assistant' is for conversations, and download.text_field names none:"
            " say 'all', or where they are, such as messages"
        )
    for base in settings.download.bases:
        bases.find(base)
    read_prompt(settings.sample)
    return "\n".join(filter(None, notes))


def _refuse_own(paths: Iterable[str], data: Path) -> None:
    """What a recipe wrote is not its own corpus, which would grow with each run."""
    for path in paths:
        if data.resolve() in real_path(path).parents:
            raise UserError(
                f"download.corpus: it matches {path}, which this recipe wrote itself; name only"
                " files of your own"
            )


def _read_some(paths: Iterable[str], reading: Reading) -> str:
    """The first piece of each file: what is wrong with all of it is wrong here already.

    Returns what a reader should know.
    """
    good, bad, plain, border = False, None, False, False
    for path in map(os.path.abspath, paths):
        file = File(name=path, bytes=os.path.getsize(path), sha256="")
        plain |= kind_of(path)[0] in (".txt", ".md")
        for piece in islice(pieces(Path(), reading, [file]), 1):
            size = 0
            for text in texts(Path(), reading, piece):  # which a packed file has all in one piece
                good |= text.document is not None
                bad = piece if text.fault and text.document is None else bad
                border |= text.where > 0 and kind_of(path)[0] in (".txt", ".md")
                size += len(text.document) if isinstance(text.document, str) else SHORT
                if size > PIECE:
                    break
    if bad and not good:  # then they are not skipped
        for _ in texts(Path(), reading.model_copy(update={"bad_documents": "refuse"}), bad):
            pass
    if plain and reading.separator and not border:
        return (
            f"download.separator: {reading.separator!r} is nowhere in the beginnings of the files"
        )
    return ""


def _look_at_rows(source: HubDataset, reading: Reading) -> None:
    """The first rows of a data set, which may take hours to fetch."""
    with suppress(SourceError):  # the fetch will say so
        rows = source.first_rows(ROWS)
        faults = []
        for index, row in enumerate(rows):
            try:
                document_of(row, reading)
            except Unreadable as error:
                faults.append(f"row {index} (counted from 0), {error.said}")
        if faults and (reading.bad_documents == "refuse" or len(faults) == len(rows)):
            raise UserError(f"download.corpus: {source.name}, {faults[0]}")


def before_training(settings: Settings, tokens: Tokens) -> None:
    """Refuse what would stop `eval` or `sample` when all of the training is done.

    Raises:
        UserError: a held-out split has nothing to score, or the vocabulary cannot spell the prompt.
    """
    names: dict[Name, str] = {"val": "", "test": ", or set that to 0"}
    for name, instead in names.items():
        split = tokens.manifest.splits[name]
        if split.documents and split.tokens < 2:
            raise UserError(
                f"{tokens.folder}: the {name} split has {split.tokens} of the two tokens that can"
                f" be scored; raise tokenize.{name}{instead}"
            )
    prompt = read_prompt(settings.sample)
    encoder = tokenizer.load(tokens.folder)
    try:
        if any(part.conversations for part in tokens.manifest.parts):
            open_template(tokens.folder, encoder).prompt([Message("user", prompt)])
        else:
            prompt_ids(encoder, prompt)
    except UserError as error:
        key = "sample.prompt" if settings.sample.prompt_file is None else "sample.prompt_file"
        raise UserError(f"{key}: {error}") from None
