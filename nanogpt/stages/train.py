"""Train a model on token files, and publish the best one as a model directory.

    python -m nanogpt.stages.train params.yaml

On several processes where `machine.processes` says so. Stopped at any instant, even by `kill -9`,
the same command goes on from the last save and ends with the same bytes. Until `dvc.lock` holds the
result, a training that is finished is published again, and not trained again.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from nanogpt.common.command import run_stage
from nanogpt.common.errors import Stopped, UserError
from nanogpt.common.files import whole_folder, write_text
from nanogpt.common.secrets import without_folder
from nanogpt.common.told import stops
from nanogpt.formats.base import Base, open_base
from nanogpt.formats.weights import weights_sha256
from nanogpt.machine.distributed import World, join, lost_peer, process_count
from nanogpt.machine.launch import LOST_PEER, launch
from nanogpt.optim import build, state_tensors
from nanogpt.settings import Settings, load
from nanogpt.sizing import memory
from nanogpt.sizing.ahead import before_training
from nanogpt.sizing.passes import fit
from nanogpt.text.tokens import Tokens, open_tokens
from nanogpt.tracking import client, datasets, outbox, run
from nanogpt.tracking.naming import run_name
from nanogpt.tracking.versions import record as records
from nanogpt.trainer import Hooks, Progress, Trainer
from nanogpt.training import texts
from nanogpt.training.checkpoint import Saves, fingerprint_of
from nanogpt.training.journal import Journal, read, write_curves
from nanogpt.training.publish import publish
from nanogpt.training.start import initial_config, initial_model, trained

if TYPE_CHECKING:
    from torch import Tensor

PART = "val_bits_per_byte/"  # and the name of a corpus
PUBLISHED = "NANOGPT_PUBLISHED"  # names a file that tells `make join` who published the model


def main(settings: Settings) -> None:
    tokens = open_tokens(settings.path("tokens"))
    base = open_base(settings.path("base"))
    check(settings, tokens)
    if "RANK" not in os.environ:
        client.check()
    processes = process_count(settings.machine, settings.train.batch_size)
    if (processes > 1 or settings.machine.nodes != 1) and "RANK" not in os.environ:
        sys.exit(launch(settings.machine, processes, "nanogpt.stages.train", sys.argv[1:]))
    world = join(settings.machine, trains=True)
    try:
        training = Training(settings, tokens, base, world)
        if world.rank == 0:
            training.run_and_tell()
        else:
            training.run(lambda *_: None, lambda: 0)
    except Exception as error:
        if not lost_peer(error):
            raise
        os._exit(LOST_PEER)  # no clean-up: it might wait for the process that is gone


def check(settings: Settings, tokens: Tokens) -> None:
    """Refuse what cannot be trained before any process starts."""
    texts.windows_of(tokens, settings)
    before_training(settings, tokens)


class Training:
    """One process's part of a training, from the newest save to the published model."""

    def __init__(self, settings: Settings, tokens: Tokens, base: Base, world: World) -> None:
        self.settings, self.tokens, self.base, self.world = settings, tokens, base, world
        self.told = listen(alone=world.size == 1)
        self.apart = settings.train.packing == "documents"
        self.bits = partial(texts.bits, tokens, self.apart)
        self.fingerprint = fingerprint_of(settings, tokens.digest, base.digest)
        folder = settings.path("state") / self.fingerprint[:16]
        self.saves = Saves(folder, world, patience=10 if settings.machine.nodes == 1 else 120)
        self.recorded = folder / run.RECORDS
        try:
            self.build()
        except BaseException:
            self.saves.leave()  # what is refused leaves nothing behind
            raise

    def build(self) -> None:
        """The model and its optimizers, as they were at the newest save, or at the start.

        Raises:
            UserError: there is not enough memory; the base, `train.lora` or the save is of no use.
        """
        settings, tokens, world = self.settings, self.tokens, self.world
        config = initial_config(settings, tokens, settings.path("base"))
        settings = self.settings = fit(config, settings, world)
        memory.check(config, settings, world)
        self.windows = texts.windows_of(tokens, settings)
        model = initial_model(settings, tokens, settings.path("base"), world.compute)
        model.activation_checkpointing = settings.machine.activation_checkpointing
        self.model = world.place(model)
        self.optimizers = build(self.model, settings.train)
        self.progress, self.rows = Progress(), None
        if self.saves.step >= 0:
            self.progress, self.rows = self.saves.resume(self.tensors())

    def tensors(self) -> "dict[str, Tensor]":
        """All that a save keeps, as it is now."""
        return trained(self.model) | state_tensors(self.model, self.optimizers)

    def run(
        self,
        record: Callable[[int, dict[str, float]], None],
        rows: Callable[[], int],
    ) -> None:
        """Train to the last step.

        Args:
            record: takes the metrics of a step.
            rows: writes the journal to the disk and returns its number of rows.
        """

        def save(progress: Progress) -> None:
            # the journal first: a resume drops the rows that no save covers
            self.saves.save(self.tensors(), progress, rows())

        trainer = Trainer(
            self.model,
            self.optimizers,
            self.windows,
            texts.held_out(self.tokens, self.apart),
            self.settings,
            self.world,
            self.progress,
            Hooks(record, save, self.bits, self.told),
        )
        try:
            trainer.fit()
        except (Stopped, UserError):  # all processes raise it
            self.leave()
            raise
        self.leave()

    def leave(self) -> None:
        """Wait for the save that all processes write, and leave their group.

        With NCCL each waits there for all others. Who met an error alone just ends: it would hang,
        with nothing said, while the others wait for it in a step.
        """
        self.saves.wait()
        self.world.close()

    def run_and_tell(self) -> None:
        """The first process's part: train, write the journal, publish, and tell MLflow."""
        journal = Journal(self.saves.folder / "journal.jsonl", self.rows)
        parameters = self.model.parameter_count()
        changing = sum(p.numel() for p in trained(self.model).values())
        counts = {"parameters": parameters, "trained_parameters": changing}
        self.announce(parameters, changing)
        self.record()
        tracked = run.start(
            self.saves.folder,
            self.settings.recipe,
            run_name(self.settings),
            self.fingerprint,
            self.settings.model_dump(exclude={"root", "params", "data", "machine"}),
            self.world.facts() | counts | self.made_of() | records.run_tags(self.recorded),
            f"`{self.model.config.architecture}`, {parameters:,} parameters, on"
            f" `{self.tokens.manifest.shown}`",
            {
                "training": datasets.describe(self.tokens, "train"),
                "validation": datasets.describe(self.tokens, "val"),
                "corpus": datasets.profile(self.tokens),
            },
        )
        try:
            self.run(journal.record, journal.save)
            self.end_if_told("trained to the end, which is saved")
            self.publish(journal)
            progress, model = self.progress, self.settings.path("model")
            registration = {
                "weights_sha256": weights_sha256(model),
                "step": progress.best_step,
                "metrics": {
                    "val_bits_per_byte": self.bits(progress.best_loss),
                    "val_loss": progress.best_loss,
                },
                "tags": self.made_of() | {"context": str(self.settings.model.context)},
                "sampling": self.settings.sample.model_dump(),
                "made_of": records.complete(self.recorded, model),
            }
            outbox.end(tracked, "FINISHED", model, registration)
        except BaseException as error:
            if not lost_peer(error):  # a lost peer is no end: the training starts again at once
                told_to = isinstance(error, (Stopped, KeyboardInterrupt))
                outbox.end(tracked, "KILLED" if told_to else "FAILED")
            raise
        settings = self.settings
        outs = [settings.path(name) for name in ("train.json", "curves")]
        self.saves.finish({out.as_posix(): out for out in outs})
        if mark := os.environ.get(PUBLISHED):
            Path(mark).touch()
        self.end_if_told("the model is published")

    def record(self) -> None:
        """Write down what decides the bytes, before it may change; of no use once trained."""
        if self.saves.finished:
            return
        world = self.world
        shared = "fsdp" if world.shards(self.model) else "ddp"
        facts = world.facts() | {"parallel": world.parallel if world.size == 1 else shared}
        going_on = self.saves.step >= 0
        records.begin(self.recorded, self.settings, self.tokens, self.base, facts, going_on)

    def publish(self, journal: Journal) -> None:
        """Write what DVC takes: the model, the curves, the figures."""
        settings, progress = self.settings, self.progress
        if not self.saves.finished:  # else it is of another process
            most = memory.peak(self.world.device)
            journal.record(progress.step, {"peak_memory_gib": most / 2**30})
            print(f"train: peak memory {most / 2**30:.2f} GiB", file=sys.stderr, flush=True)
        journal.save()  # the last score may have no save of its own
        bits = self.bits(progress.best_loss)
        print(
            f"train: val {bits:.4f} bits per byte, {progress.best_loss:.4f} nats a token, at step"
            f" {progress.best_step:,}",
            file=sys.stderr,
            flush=True,
        )
        rows = read(self.saves.folder / "journal.jsonl")
        at_best = (row.metrics.items() for row in rows if row.step == progress.best_step)
        parts = {key: value for key, value in chain(*at_best) if key.startswith(PART)}
        for key, value in parts.items():
            print(
                f"train: val {value:.4f} of {key.removeprefix(PART)}", file=sys.stderr, flush=True
            )
        if often := texts.seen(self.windows, progress.step * settings.train.batch_size):
            print(f"train: read {often}", file=sys.stderr, flush=True)
        best = self.saves.best(progress, list(trained(self.model)))
        publish(settings, self.tokens, self.base, best, progress)
        with whole_folder(settings.path("curves")) as curves:
            write_curves(rows, curves)
        figures: dict[str, float | str] = {
            "val_bits_per_byte": bits,
            **parts,
            "val_loss": progress.best_loss,
            "best_step": progress.best_step,
            "weights_sha256": weights_sha256(settings.path("model"))[:16],
        }
        if self.base.name:
            figures["base_val_bits_per_byte"] = self.bits(progress.first_loss)
            figures["base_val_loss"] = progress.first_loss
        write_text(settings.path("train.json"), json.dumps(figures, indent=1) + "\n")

    def end_if_told(self, done: str) -> None:
        """Between two acts of the end: each of them is whole, and may be done twice."""
        if number := self.told():
            raise Stopped(done, number)

    def made_of(self) -> dict[str, str | None]:
        """What the model is made of, as tags of its run and its version."""
        tags: dict[str, str | None] = {"tokens_sha256": self.tokens.digest}
        if self.base.name:
            known = self.base.model_dump(include={"source", "licence", "digest"})
            lineage = {f"base_{key}": value for key, value in (known | self.base.lineage).items()}
            names = {"base": self.base.name, "base_source": self.base.source or ""}
            tags |= lineage | {key: without_folder(name) for key, name in names.items()}
        return tags

    def announce(self, parameters: int, changing: int) -> None:
        if self.saves.finished:
            print(
                f"train: {self.saves.folder} has been trained to its end: publishing it again",
                file=sys.stderr,
                flush=True,
            )
            return
        train, step = self.settings.train, self.saves.step
        size = train.batch_size * self.settings.model.context
        where = self.world.facts()
        print(
            f"train: {parameters:,} parameters"
            + (f" of {self.base.name}" if self.base.name else "")
            + (f", of which {changing:,} are trained" if changing != parameters else "")
            + f", {train.steps:,} steps of {size:,} tokens"
            + f", on {where['processes']} x {where['device']} in {where['dtype']}"
            + (f"; going on from step {step:,}" if step >= 0 else ""),
            file=sys.stderr,
            flush=True,
        )
        visits = train.steps * train.batch_size
        for line in texts.ahead(self.windows, visits):
            print(f"train: {line}", file=sys.stderr, flush=True)


def listen(alone: bool) -> Callable[[], int]:
    """A function that returns the number of the signal that came to end this, or 0.

    A second Ctrl-C ends the process at once, if it is `alone`; else its launcher sees to that.
    """
    came: list[int] = []

    def hear(signum: int, _: object) -> None:
        if came and alone and signum == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(signum)

    for number in (signal.SIGINT, *stops()):
        signal.signal(number, hear)
    return lambda: came[0] if came else 0


if __name__ == "__main__":
    run_stage(load, main)
