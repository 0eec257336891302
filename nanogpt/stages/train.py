"""Train a model on token files, and publish the best one as a model directory.

    python -m nanogpt.stages.train --tokens T --model M --curves C --metrics F

On several processes where `machine.processes` says so. Stopped at any instant, even by `kill -9`,
the same command goes on from the last save and ends with the same bytes.
"""

import argparse
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import torch

from nanogpt import checkpoint, optim, outbox, stages, tracking
from nanogpt.batches import window_count
from nanogpt.card import write_card
from nanogpt.config import Settings
from nanogpt.distributed import World, join, lost_peer, process_count
from nanogpt.errors import Stopped, UserError
from nanogpt.files import remove_folder, whole_folder, write_text
from nanogpt.journal import Journal, read, write_curves
from nanogpt.launch import LOST_PEER, launch
from nanogpt.model import GPT, GPTConfig
from nanogpt.tokens import Tokens, open_tokens
from nanogpt.trainer import Progress, Record, Save, Stop, fit
from nanogpt.weights import save_model, weights_sha256


def main(args: argparse.Namespace, settings: Settings) -> None:
    tokens = open_tokens(args.tokens)
    check(settings, tokens)
    processes = process_count(settings.machine)
    if (processes > 1 or settings.machine.nodes != 1) and "RANK" not in os.environ:
        sys.exit(launch(settings.machine, processes, "nanogpt.stages.train", sys.argv[1:]))
    world = join(settings.machine)
    try:
        train(args, settings, tokens, world)
    except Exception as error:
        if not lost_peer(error):
            raise
        os._exit(LOST_PEER)  # no clean-up, which may wait for the process that is gone
    finally:
        world.close()


def check(settings: Settings, tokens: Tokens) -> None:
    """Refuse what cannot be trained before any process starts."""
    context = settings.model.context
    window_count(len(tokens.split("train")), context)
    if len(tokens.split("val")) < 2:
        raise UserError(f"{tokens.folder}: the val split has no token to score; raise tokenize.val")
    processes = int(os.environ.get("WORLD_SIZE", process_count(settings.machine)))
    if settings.train.batch_size < processes:
        raise UserError(
            f"train.batch_size {settings.train.batch_size} is less than the {processes} processes"
            " that share it"
        )


def train(args: argparse.Namespace, settings: Settings, tokens: Tokens, world: World) -> None:
    told = _listen(alone=world.size == 1)
    shape = GPTConfig(
        vocab_size=tokens.manifest["vocab_size"],
        head_dim=settings.model.n_embd // settings.model.n_head,
        **settings.model.model_dump(),
    )
    torch.manual_seed(settings.seed)
    model = world.place(GPT(shape, world.compute))
    optimizers = optim.build(model, settings.train)

    same = settings.model_dump(include={"seed", "model", "train"})
    fingerprint = checkpoint.fingerprint(same, tokens.digest)
    folder = Path(settings.data, "state", fingerprint[:16])
    newest = -1
    if world.rank == 0:
        # a file server keeps the lock of a machine that lost its power for a minute and more
        lock = _hold(folder, seconds=10 if settings.machine.nodes == 1 else 120)
        checkpoint.clean(folder)
        newest = checkpoint.latest(folder)
    step = int(world.largest(newest)[0])  # of the first process: a file server may lag
    progress, rows = Progress(), None
    if step >= 0:
        progress, rows = _resume(checkpoint.place(folder, step), model, optimizers, world)
    saver = checkpoint.Saver(folder, world)

    def save(progress: Progress, rows: int = 0, tell: Callable[[], None] = lambda: None) -> None:
        if progress.saved_step == progress.step:
            return  # it was stopped before this step was scored: these weights are on the disk
        progress.saved_step = progress.step
        tensors = dict(model.named_parameters()) | optim.state_tensors(model, optimizers)
        saver.save(tensors, vars(progress) | {"rows": rows}, [progress.best_step], tell)

    def fitted(record: Record, save: Save) -> None:
        splits = tokens.split("train"), tokens.split("val")
        try:
            fit(model, optimizers, *splits, settings, world, progress, record, save, told)
        except (Stopped, UserError):  # raised by all processes, and all of them write the save
            saver.wait()
            raise
        saver.wait()

    if world.rank > 0:
        fitted(lambda *_: None, save)
        return

    journal = Journal(folder / "journal.jsonl", rows)
    facts = world.facts() | {"parameters": model.parameter_count()}
    print(
        f"train: {facts['parameters']:,} parameters, {settings.train.steps:,} steps of"
        f" {settings.train.batch_size * shape.context:,} tokens, on {facts['processes']} x"
        f" {facts['device']} in {facts['dtype']}"
        + (f"; going on from step {step:,}" if step >= 0 else ""),
        file=sys.stderr,
        flush=True,
    )
    run = tracking.start(
        folder,
        settings.recipe,
        fingerprint,
        settings.model_dump(exclude={"code", "data", "machine"}),
        facts | {"tokens_sha256": tokens.digest},
        {
            "name": tokens.manifest["corpus"],
            "digest": tokens.digest,
            "source": tokens.manifest["corpus"],
            **{name: split["tokens"] for name, split in tokens.manifest["splits"].items()},
        },
    )

    def save_with_curves(progress: Progress) -> None:
        rows = journal.save()  # before the state: a resume drops the rows that no state covers
        save(progress, rows, lambda: run.sync(rows))

    try:
        fitted(journal.record, save_with_curves)
        run.sync(journal.save())  # the last score may have no save of its own
        publish(args, settings, tokens, model, progress, folder)
        outbox.end(
            run,
            "FINISHED",
            args.model,
            {
                "weights_sha256": weights_sha256(args.model),
                "step": progress.best_step,
                "metrics": {"val_loss": progress.best_loss},
                "tags": {"tokens_sha256": tokens.digest},
                "sampling": settings.sample.model_dump(),
            },
        )
    except BaseException as error:
        if not lost_peer(error):  # else it starts again at once
            told_to = isinstance(error, (Stopped, KeyboardInterrupt))
            outbox.end(run, "KILLED" if told_to else "FAILED")
        raise
    remove_folder(folder)
    lock.close()


def _hold(folder: Path, seconds: int) -> TextIO:
    """Keep a second training away; workers of a killed one may need a moment to see that."""
    for _ in range(10 * seconds):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "lock"
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock  # and not that of a folder which a finished training has just removed
        except BlockingIOError:
            time.sleep(0.1)
        lock.close()
    raise UserError(f"another process is training this very model, in {folder}; wait for it")


def _resume(
    save: Path, model: GPT, optimizers: list[torch.optim.Optimizer], world: World
) -> tuple[Progress, int]:
    """Put back a save of this training; returns its progress and the journal's rows."""
    about = checkpoint.read_progress(save)
    tensors = dict(model.named_parameters()) | optim.state_tensors(model, optimizers)
    with torch.no_grad():
        checkpoint.fill(save, tensors, world)
    rows = about.pop("rows")
    return Progress(**about), rows


def _listen(alone: bool) -> Stop:
    """Answers with the number of the signal, SIGTERM or SIGINT, that came, or 0.

    A second Ctrl-C ends the process at once, if it is `alone`; else its launcher sees to that.
    """
    came: list[int] = []

    def hear(signum: int, _: object) -> None:
        if came and alone and signum == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(signum)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hear)
    return lambda: came[0] if came else 0


def publish(
    args: argparse.Namespace,
    settings: Settings,
    tokens: Tokens,
    model: GPT,
    progress: Progress,
    state: Path,
) -> None:
    """Write the best weights as a model directory, whole or not at all, and the curves."""
    names = [name for name, _ in model.named_parameters()]
    best = checkpoint.read_whole(checkpoint.place(state, progress.best_step), names)
    with whole_folder(args.model) as folder:
        save_model(folder, model.config, best, tokens.manifest["eot"])
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokens.folder / name, folder / name)
        write_card(folder, settings, tokens, model, progress)
    with whole_folder(args.curves) as folder:
        write_curves(read(state / "journal.jsonl"), folder)
    figures = {"val_loss": progress.best_loss, "best_step": progress.best_step}
    write_text(args.metrics, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    stages.run(main, parser)
