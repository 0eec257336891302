"""Two models on one text: how far they differ, how sure that is, where, and how they write.

nanogpt compare models:/nanogpt-shakespeare@champion data/shakespeare/model
nanogpt compare models:/nanogpt-a/3 models:/nanogpt-b/1 --text essay.txt --out compared.md
"""

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, chdir, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanogpt.commands.export import open_model
from nanogpt.common.errors import UserError
from nanogpt.common.files import write_text
from nanogpt.common.manifest import File
from nanogpt.common.place import root
from nanogpt.common.recipe import find_recipe, how_to_run
from nanogpt.formats.hub.config import read_config
from nanogpt.formats.weights import load_model, weights_sha256
from nanogpt.generation.generate import generate
from nanogpt.generation.options import Options
from nanogpt.machine.distributed import World, join
from nanogpt.scoring.blocks import Scores, score
from nanogpt.scoring.page import code, differences, side_by_side, table
from nanogpt.scoring.paired import paired
from nanogpt.scoring.seen import seen
from nanogpt.settings import Fields, Settings, load
from nanogpt.text.documents import Piece, documents, pieces
from nanogpt.text.prompt import answer, go_on, read_prompt
from nanogpt.text.raw import Reading, is_readable
from nanogpt.text.samples import Question, questions
from nanogpt.text.talks.chat import Conversation
from nanogpt.text.talks.template import open_template
from nanogpt.text.tokens import STARTS, HeldOut, Tokens, open_tokens
from nanogpt.text.words import tokenizer
from nanogpt.tracking.versions import compared
from nanogpt.tracking.versions.names import PREFIX, look_up, name_of
from nanogpt.training.publish import made

CONFIDENCE = 0.95
AS_IT_IS = Reading(text_field="text", separator=None, newlines="keep", bad_documents="refuse")
# how conversations stand in a file, as `make recipe` looks for them
TALKS = tuple(
    AS_IT_IS.model_copy(update={"text_field": field})
    for field in ("messages", Fields(messages="conversations"), ("prompt", "completion"))
)
HINT = "name the right one in download.text_field"


@dataclass(frozen=True)
class Model:
    """One of the two."""

    shown: str  # as pages call it
    folder: Path
    recipe: Path | None  # the folder of the recipe that trained it, if it is here

    @property
    def context(self) -> int:
        """Tokens in a window of its training, as far as anything says."""
        card = made(self.folder)
        return card.context if card else read_config(self.folder).context


def compare(a: str, b: str, text: Path | None, recipe: Path | None, out: Path | None) -> None:
    """Print a page; where `a` is registered it becomes an artifact of its run, too.

    Args:
        a, b: directories or `models:/...`.
        text: a file; None: the held-out text of the recipe, or of the one that trained `a`.
        recipe: its folder; says the prompt as well.
        out: a file for the page.

    Raises:
        UserError: no such model, text or recipe, or one that is of no use; says which.
    """
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        where = "a folder" if out.is_dir() else "in no folder that is there"
        raise UserError(f"--out {out} is {where}; name a file")
    held_out = read_text(text) if text else None
    # aliases may move while this runs
    names = [look_up(name).uri if name.startswith("models:") else name for name in (a, b)]
    with ExitStack() as stack:
        models = []
        for given, name in zip((a, b), names, strict=True):
            short, folder = stack.enter_context(open_model(name))
            shown = name if name.startswith("models:") else _shown(given, short)
            models.append(Model(shown, folder, _recipe(name)))
        chosen = recipe or models[0].recipe
        # of no recipe that is known, the prompt of the one at the root is as good as any
        settings = load((chosen or root()) / "params.yaml")
        place = (chosen or root()) / settings.root
        held_out = held_out or _own_text(settings, chosen, models[0].shown)
        with chdir(place):
            prompt = read_prompt(settings.sample)
        world = join(settings.machine.model_copy(update={"dtype": "float32"}))
        scores = [_score(model, held_out, world) for model in models]
        page = "\n".join(_page(held_out, models, scores, settings, prompt, world))
    print(page)
    if out is not None:
        write_text(out, page)
    if names[0].startswith("models:"):
        file = (
            f"{re.sub('[^A-Za-z0-9]+', '-', models[1].shown).strip('-')}-{held_out.digest[:8]}.md"
        )
        print(f"compare: {compared.keep(names[0], file, page)}", file=sys.stderr)


def read_text(path: Path) -> HeldOut:
    """A file's texts or conversations, by its kind as a corpus of one's own; else one document.

    Raises:
        UserError: it is not there, or not UTF-8.
    """
    if not path.is_file():
        raise UserError(f"--text {path} is no file that is there, seen from {Path.cwd()}")
    size, folder, reading = path.stat().st_size, path.parent, AS_IT_IS
    parts = [Piece(path.name, 0, size, size)]
    if is_readable(path.name):
        file = File(name=path.name, bytes=size, sha256="")
        parts = [*pieces(folder, AS_IT_IS, [file])]
        reading = _reading(folder, *parts[:1])
    try:
        found = [*documents(folder, reading, *parts)]
    except UserError as error:
        there = "a text is to stand in 'text', or a conversation in 'messages'"
        raise UserError(str(error).replace(HINT, there)) from None
    talks = [one.to_json().encode() for one in found if isinstance(one, Conversation)]
    if talks:
        starts = np.cumsum([0, *map(len, talks)], dtype=STARTS)[:-1]
        return HeldOut(
            path.name, b"".join(talks), starts, conversations=np.ones(len(talks), np.bool_)
        )
    plain = [document for document in found if isinstance(document, str)]
    if not plain:
        raise UserError(f"--text {path} has no text; name another file")
    return HeldOut.of(path.name, *plain)


def _reading(folder: Path, *first: Piece) -> Reading:
    """In which fields a file has its first document; those of texts, if nothing is there."""
    for reading in (AS_IT_IS, *TALKS):
        with suppress(UserError):
            if next(documents(folder, reading, *first), None) is not None:
                return reading
    return AS_IT_IS


def _recipe(model: str) -> Path | None:
    """The recipe that trained a model, by the name of its version, or where its folder lies."""
    if model.startswith("models:/"):
        name = name_of(model).removeprefix(PREFIX)
    else:
        folder = Path(model).resolve()
        if folder.name != "model" or folder.parent.parent != (root() / "data").resolve():
            return None
        name = folder.parent.name
    with suppress(UserError):
        return find_recipe(name)
    return None


def _score(model: Model, text: HeldOut, world: World) -> Scores:
    try:
        card = made(model.folder)
        return score(model.folder, text, model.context, world, apart=bool(card and card.apart))
    except UserError as error:  # it names the folder that a registered model was fetched into
        raise UserError(str(error).replace(str(model.folder), model.shown)) from None


def _own_text(settings: Settings, recipe: Path | None, model: str) -> HeldOut:
    """The held-out text of a recipe, if it is known which."""
    if recipe is None:
        raise UserError(
            f"nothing says which recipe trained {model}, so there is no held-out text of its own;"
            " name a recipe, --recipe RECIPE, or a file, --text FILE"
        )
    place = recipe / settings.root
    folder = place / settings.path("tokens")
    if not folder.is_dir():
        raise UserError(
            f"the held-out text of the recipe {settings.recipe} is not here:"
            f" `{how_to_run(recipe, place)}` makes it; or name a file, --text FILE"
        )
    return open_tokens(folder).held_out()


def _shown(folder: str, short: str) -> str:
    """What the page calls a model directory: no path of this machine's."""
    with suppress(ValueError):
        return Path(folder).resolve().relative_to(root().resolve()).as_posix()
    return short


def _page(
    text: HeldOut,
    models: list[Model],
    scores: list[Scores],
    settings: Settings,
    prompt: str,
    world: World,
) -> Iterator[str]:
    a, b = scores
    yield "# Two models on one text\n"
    yield table(["", "A", "B"], [*_facts(models, scores)])
    notes = [
        f"- {letter}: {said}\n"
        for letter, model, found in zip("AB", models, scores, strict=True)
        for said in (_known(model, text), _unknown(found, text))
        if said
    ]
    if text.split == "val":
        notes.append("- this is the split by which a training of its recipe chooses its weights\n")
    yield f"Against A, B is **{paired(b, a, CONFIDENCE)}**. Shares are of A's loss on this text."
    if any("**" in note for note in notes):
        yield "What stands in bold below speaks against this figure."
    yield (
        f"\nThe text: {code(text.name)}, {len(text.data):,} bytes in {len(text.starts):,}"
        f" document{'s' * (len(text.starts) != 1)}, digest `{text.digest}`.\n"
    )
    yield "".join(notes)
    yield from differences(text, a, b)
    yield "## How they go on\n"
    sample = settings.sample
    asked = questions(text, 1)
    begin = code(asked[0].messages[-1].content if asked else prompt)
    yield f"From {begin or 'nothing'}, with seed {sample.seed}.\n"
    start = asked[0] if asked else prompt
    yield side_by_side(*(_sample(model, settings, start, world) for model in models))


def _facts(models: list[Model], scores: list[Scores]) -> Iterator[list[str]]:
    yield ["model", *(code(model.shown) for model in models)]
    files = [model.folder / "model.safetensors" for model in models]
    digests = [weights_sha256(f.parent)[:16] if f.is_file() else "" for f in files]
    yield ["weights, SHA-256", *(code(digest) for digest in digests)]
    figures = [found.figures() for found in scores]
    yield ["bits per byte", *(f"{f['bits_per_byte']:.4f}" for f in figures)]
    yield ["tokens", *(f"{found.tokens:,}" for found in scores)]
    yield ["tokens in a window", *(f"{found.context:,}" for found in scores)]


def _known(model: Model, text: HeldOut) -> str:
    """Whether a model was trained on the text."""
    card, tokens = made(model.folder), _tokens(model)
    base = "; of what its base has seen nothing is known" if card and card.based else ""
    if not card or not tokens or tokens.digest != card.tokens:
        return f"whether it was trained on this text is not known: its tokens are not here{base}"
    found = seen(text, tokens)
    if not found.looked:
        return f"whether it was trained on this text was not looked up{base}"
    if found.found:
        said = (
            f"{found.found} of {found.looked} passages of this text are in what it was trained on,"
            " word for word, so its score is better than it should be"
        )
        print(f"compare: {model.shown}: {said}", file=sys.stderr)
        return f"**{said}**{base}"
    return f"of {found.looked} passages of this text none is in what it was trained on{base}"


def _tokens(model: Model) -> Tokens | None:
    """The tokens of the recipe that trained a model, if they are here."""
    if model.recipe is None:
        return None
    with suppress(UserError):
        settings = load(model.recipe / "params.yaml")
        return open_tokens(model.recipe / settings.root / settings.path("tokens"))
    return None


def _unknown(scores: Scores, text: HeldOut) -> str:
    if not scores.unknown:
        return ""
    return (
        f"**its tokenizer has nothing for {scores.unknown:,} of {len(text.data):,} bytes, which"
        " cost it little or nothing, so its score is better than it should be**"
    )


def _sample(model: Model, settings: Settings, prompt: str | Question, world: World) -> str:
    options = Options.of(settings.sample)
    loaded = load_model(model.folder, world.device, world.compute)
    encoder = tokenizer.load(model.folder)
    try:
        if isinstance(prompt, Question):
            start = answer(open_template(model.folder, encoder), prompt.messages)
        else:
            start = go_on(encoder, prompt)
        (text,) = generate(loaded, encoder, [start], [options], slots=1)
    except UserError as error:
        return f"(no sample: {error})"
    return text
