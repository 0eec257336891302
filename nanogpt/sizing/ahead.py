"""What would stop a later stage, asked before the cost: before a fetch, before a training."""

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from nanogpt.common.errors import UserError
from nanogpt.common.manifest import File
from nanogpt.settings import Settings
from nanogpt.sources import bases, corpora
from nanogpt.sources.fetch import Files, real_path
from nanogpt.text import tokenizer
from nanogpt.text.documents import PIECE, pieces, texts
from nanogpt.text.prompt import prompt_ids, read_prompt
from nanogpt.text.tokens import Name, Tokens


def before_download(settings: Settings) -> str:
    """Refuse what no fetching can bring; returns what a reader should know of the corpus.

    Raises:
        UserError: a corpus or a base that is unknown, not there or of no kind that can be read; own
            texts whose beginning cannot be read; or a prompt's file that is not there or no text.
    """
    field = settings.download.text_field
    corpus = corpora.find(settings.download.corpus, field)
    for source in corpus.sources:
        if isinstance(source, Files):
            _refuse_own(source.paths, Path(settings.data))
            _read_some(source.paths, field)
    for base in settings.download.bases:
        bases.find(base)
    read_prompt(settings.sample)
    return corpus.note


def _refuse_own(paths: Iterable[str], data: Path) -> None:
    """What a recipe wrote is not its own corpus, which would grow with each run."""
    for path in paths:
        if data.resolve() in real_path(path).parents:
            raise UserError(
                f"download.corpus: it matches {path}, which this recipe wrote itself; name only"
                " files of your own"
            )


def _read_some(paths: Iterable[str], field: str) -> None:
    """The first piece of each file: what is wrong with all of it is wrong here already."""
    for path in map(os.path.abspath, paths):
        file = File(name=path, bytes=os.path.getsize(path), sha256="")
        for piece in islice(pieces(Path(), [file]), 1):
            some = piece._replace(stop=min(piece.stop, PIECE))  # of a long .txt too
            for _ in texts(Path(), field, some):
                pass


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
    try:
        prompt_ids(tokenizer.load(tokens.folder), prompt)
    except UserError as error:
        key = "sample.prompt" if settings.sample.prompt_file is None else "sample.prompt_file"
        raise UserError(f"{key}: {error}") from None
