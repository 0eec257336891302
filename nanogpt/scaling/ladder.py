"""Small trainings of a recipe, of several sizes and budgets, for a scaling law to be fitted to.

    for rung in rungs(settings, tokens, depths=[1, 2, 3], largest=5e11, budgets=4):
        result = climb(rung, tokens, world, folder, told)

Each is turned from the recipe by the dial. A training that is finished leaves a file and is not
trained again; one that was stopped goes on from its save as any training does, with the same bytes.
Nothing of it goes to MLflow, or to the registry.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from nanogpt import optim
from nanogpt.common.errors import UserError
from nanogpt.common.files import remove_folder, write_text
from nanogpt.evaluation import total_loss
from nanogpt.machine.distributed import World
from nanogpt.settings import FromScratch
from nanogpt.sizing import memory
from nanogpt.sizing.count import config_of, count
from nanogpt.sizing.dial import EPOCHS, once, tokens_of, turn
from nanogpt.sizing.passes import fit
from nanogpt.text.tokens import Tokens
from nanogpt.trainer import Hooks, Progress, Trainer
from nanogpt.training import texts
from nanogpt.training.checkpoint import Saves, fingerprint_of
from nanogpt.training.start import initial_model, trained

APART = 2.0  # times, between one budget and the next
FEWEST = 100  # steps: a shorter training says little of longer ones
SCORED = 0.1  # of the work of a training, at most, goes into validations
ROOMS = Path(__file__).parents[1]
# of them, the code that decides what a training comes to: as `dvc.yaml` lists it of `train`
DECIDES = (
    *("architecture.py", "model.py", "batches.py", "packing.py", "optim.py", "gradients.py"),
    *("trainer.py", "evaluation.py", "training", "machine", "text/tokens.py", "scaling/ladder.py"),
)


@dataclass(frozen=True)
class Rung:
    """A training to be done."""

    settings: FromScratch
    depth: int
    matrices: int
    tokens: int
    flops: float  # in all


@dataclass(frozen=True)
class Result:
    """A training that is done."""

    depth: int
    matrices: int
    tokens: int
    flops: float
    bits_per_byte: float  # of the validation split, after the last step
    seconds: float  # of steps and validations, over all its attempts
    made_by: str = ""  # as `made_by` says


def rungs(
    settings: FromScratch,
    tokens: Tokens,
    depths: Sequence[int],
    largest: float,
    budgets: int,
    seeds: int,
) -> list[Rung]:
    """The ladder: each depth with each budget, those left out that are too short or too long.

    Args:
        largest: operations of the largest budget; each other is 1/APART of the next.
        seeds: how often each is trained, from the recipe's seed on: how far they differ is how
            far a law can be trusted.

    Raises:
        UserError: a depth that cannot be.
    """
    found = []
    for budget in (largest / APART**i for i in reversed(range(budgets))):
        for depth in sorted(set(depths)):
            rung = rung_of(settings, tokens, depth, budget)
            read = rung.tokens / once(tokens.manifest, settings.train.weights)
            if rung.settings.train.steps >= FEWEST and read <= EPOCHS:
                found += [
                    replace(rung, settings=rung.settings.model_copy(update={"seed": seed}))
                    for seed in range(settings.seed, settings.seed + seeds)
                ]
    return found


def rung_of(settings: FromScratch, tokens: Tokens, depth: int, flops: float) -> Rung:
    """The training of one depth that comes to so many operations."""
    size, context = tokens.manifest.vocab_size, settings.model.context
    counts = count(config_of(turn(settings, size, depth).settings, size), context)
    turned = turn(settings, size, depth, tokens=max(1, round(flops / counts.flops_per_token)))
    train = turned.settings.train
    read = tokens_of(turned.settings)
    # a pass forward is a third of the work
    often = int(3 * SCORED * read / max(1, tokens.manifest.splits["val"].tokens))
    changes = {
        "eval_interval": math.ceil(train.steps / min(max(often, 1), 10)),
        "patience": None,
        "max_minutes": None,
    }
    short = turned.settings.model_copy(update={"train": train.model_copy(update=changes)})
    return Rung(short, depth, counts.matrices, read, counts.flops_per_token * read)


def made_by(world: World) -> str:
    """The code that trains here, by a digest of it, and the type that it multiplies in."""
    return f"{_code()} {world.facts()['dtype']}"


@cache  # what was imported trains on, whatever becomes of the files in the hours of a ladder
def _code() -> str:
    found = hashlib.sha256()
    for part in DECIDES:
        for file in (
            [ROOMS / part] if part.endswith(".py") else sorted((ROOMS / part).rglob("*.py"))
        ):
            found.update(file.read_bytes())
    return found.hexdigest()[:12]


def path_of(rung: Rung, tokens: Tokens, folder: Path) -> Path:
    """Where the result of a training is kept, or will be."""
    return folder / f"{fingerprint_of(rung.settings, tokens.digest, None)[:16]}.json"


def known(rung: Rung, tokens: Tokens, folder: Path) -> Result | None:
    """The result of a training, if it is done.

    Raises:
        UserError: the file is damaged.
    """
    path = path_of(rung, tokens, folder)
    if not path.exists():
        return None
    try:
        return Result(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it to train this again") from None


def climb(
    rung: Rung, tokens: Tokens, world: World, folder: Path, told: Callable[[], int] = lambda: 0
) -> Result:
    """Train a rung to its end, or go on with it; write its result.

    Args:
        folder: of the ladder, where results and states are.
        told: returns the number of the signal that came to end this, or 0.

    Raises:
        Stopped: told to; its state is saved.
        UserError: another process trains it, it does not fit, its loss is NaN or infinite.
    """
    if done := known(rung, tokens, folder):
        return done
    path, context = path_of(rung, tokens, folder), rung.settings.model.context
    config = config_of(rung.settings, tokens.manifest.vocab_size)
    settings = fit(config, rung.settings, world)
    memory.check(config, settings, world)
    now = made_by(world)  # what other code began is not gone on with
    saves = Saves(folder / "state" / f"{path.stem}-{now.replace(' ', '-')}", world, patience=10)
    try:
        if done := known(rung, tokens, folder):  # another process has just made it
            return done
        model = world.place(initial_model(settings, tokens, folder, world.compute))
        model.activation_checkpointing = settings.machine.activation_checkpointing
        optimizers, progress = optim.build(model, settings.train), Progress()

        def tensors() -> dict[str, Any]:
            return trained(model) | optim.state_tensors(model, optimizers)

        if saves.step >= 0:
            progress, _ = saves.resume(tensors())
        apart = settings.train.packing == "documents"
        bits, text = partial(texts.bits, tokens, apart), texts.held_out(tokens, apart)
        hooks = Hooks(
            lambda *_: None, lambda progress: saves.save(tensors(), progress, 0), bits, told
        )
        windows = texts.windows_of(tokens, settings)
        trainer = Trainer(model, optimizers, windows, text, settings, world, progress, hooks)
        try:
            trainer.fit()
        finally:
            saves.wait()
        if progress.best_step == progress.step:
            loss = progress.best_loss
        else:  # the last is what a law is of, be it the best or not
            nats, counted = total_loss(trainer.core, text, context, world)
            loss = nats / counted
        about = rung.depth, rung.matrices, rung.tokens, rung.flops
        result = Result(*about, bits(loss, None), progress.seconds, now)
        write_text(path, json.dumps(asdict(result), indent=1) + "\n")
        for save in saves.folder.iterdir():
            remove_folder(save)
    finally:
        saves.leave()
    return result
