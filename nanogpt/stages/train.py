"""Train a model on token files, and publish the best one as a model directory.

    python -m nanogpt.stages.train --tokens T --base B --model M --curves C --metrics F

On several processes where `machine.processes` says so. Stopped at any instant, even by `kill -9`,
the same command goes on from the last save and ends with the same bytes.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nanogpt import checkpoint, memory, optim, outbox, stages, tracking
from nanogpt.batches import window_count
from nanogpt.config import Settings
from nanogpt.distributed import World, join, lost_peer, process_count
from nanogpt.errors import Stopped, UserError
from nanogpt.files import whole_folder, write_text
from nanogpt.initial import initial_config, initial_model, trained
from nanogpt.journal import Journal, read, write_curves
from nanogpt.launch import LOST_PEER, launch
from nanogpt.lineage import open_base
from nanogpt.publish import publish
from nanogpt.state import State
from nanogpt.tokens import Tokens, open_tokens
from nanogpt.trainer import Progress, Record, Save, Stop, fit
from nanogpt.weights import weights_sha256


def main(args: argparse.Namespace, settings: Settings) -> None:
    tokens = open_tokens(args.tokens)
    base = open_base(args.base)
    check(settings, tokens)
    processes = process_count(settings.machine)
    if (processes > 1 or settings.machine.nodes != 1) and "RANK" not in os.environ:
        sys.exit(launch(settings.machine, processes, "nanogpt.stages.train", sys.argv[1:]))
    world = join(settings.machine)
    try:
        train(args, settings, tokens, base, world)
    except Exception as error:
        if not lost_peer(error):
            raise
        os._exit(LOST_PEER)  # no clean-up, which may wait for the process that is gone
    finally:
        world.close()


def check(settings: Settings, tokens: Tokens) -> None:
    """Refuse what cannot be trained before any process starts."""
    window_count(len(tokens.split("train")), settings.model.context)
    if len(tokens.split("val")) < 2:
        raise UserError(f"{tokens.folder}: the val split has no token to score; raise tokenize.val")
    processes = int(os.environ.get("WORLD_SIZE", process_count(settings.machine)))
    if settings.train.batch_size < processes:
        raise UserError(
            f"train.batch_size {settings.train.batch_size} is less than the {processes} processes"
            " that share it"
        )


def train(
    args: argparse.Namespace,
    settings: Settings,
    tokens: Tokens,
    base: Mapping[str, Any],
    world: World,
) -> None:
    """One process's part of a training, from the newest save to the published model."""
    told = _listen(alone=world.size == 1)
    same = settings.model_dump(include={"seed", "model", "train"})
    fingerprint = checkpoint.fingerprint(same, tokens.digest, base["digest"])
    folder = Path(settings.data, "state", fingerprint[:16])
    state = State(folder, world, patience=10 if settings.machine.nodes == 1 else 120)
    memory.check(initial_config(settings, tokens, args.base), settings, world)
    model = initial_model(settings, tokens, args.base, world.compute)
    model.activation_checkpointing = settings.machine.activation_checkpointing
    padding = settings.machine.pad_vocabulary
    tile = 64 if world.device.type == "cuda" else 1  # on a CPU it costs more than it gains
    model.head.multiple = tile if padding == "auto" else padding
    model = world.place(model)
    optimizers = optim.build(model, settings.train)
    progress, rows = Progress(), None
    if state.step >= 0:
        tensors = trained(model) | optim.state_tensors(model, optimizers)
        progress, rows = state.resume(tensors)

    def save(progress: Progress, rows: int = 0, tell: Callable[[], None] = lambda: None) -> None:
        tensors = trained(model) | optim.state_tensors(model, optimizers)
        state.save(tensors, progress, rows, tell)

    def fitted(record: Record, save: Save) -> None:
        splits = tokens.split("train"), tokens.split("val")
        try:
            fit(model, optimizers, *splits, settings, world, progress, record, save, told)
        except (Stopped, UserError):  # raised by all processes, and all of them write the save
            state.wait()
            raise
        state.wait()

    if world.rank > 0:
        fitted(lambda *_: None, save)
        return

    journal = Journal(folder / "journal.jsonl", rows)
    facts = world.facts() | {
        "parameters": model.parameter_count(),
        "trained_parameters": sum(p.numel() for p in trained(model).values()),
    }
    _announce(settings, base, facts, state.step)
    run = tracking.start(
        folder,
        settings.recipe,
        fingerprint,
        settings.model_dump(exclude={"code", "data", "machine"}),
        facts | made_of(tokens, base),
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
        most = memory.peak(world.device)
        journal.record(progress.step, {"peak_memory_gib": most / 2**30})
        print(f"train: peak memory {most / 2**30:.2f} GiB", file=sys.stderr, flush=True)
        run.sync(journal.save())  # the last score may have no save of its own
        best = state.best(progress, list(trained(model)))
        publish(args.model, settings, tokens, base, args.base, best, progress)
        with whole_folder(args.curves) as curves:
            write_curves(read(folder / "journal.jsonl"), curves)
        figures = {"val_loss": progress.best_loss, "best_step": progress.best_step}
        if base["base"]:
            figures["base_val_loss"] = progress.first_loss
        write_text(args.metrics, json.dumps(figures, indent=1) + "\n")
        outbox.end(
            run,
            "FINISHED",
            args.model,
            {
                "weights_sha256": weights_sha256(args.model),
                "step": progress.best_step,
                "metrics": {"val_loss": progress.best_loss},
                "tags": made_of(tokens, base),
                "sampling": settings.sample.model_dump(),
            },
        )
    except BaseException as error:
        if not lost_peer(error):  # else it starts again at once
            told_to = isinstance(error, (Stopped, KeyboardInterrupt))
            outbox.end(run, "KILLED" if told_to else "FAILED")
        raise
    state.remove()


def made_of(tokens: Tokens, base: Mapping[str, Any]) -> dict[str, str]:
    """What a model is made of, as tags of its run and its version."""
    tags = {"tokens_sha256": tokens.digest}
    if base["base"]:
        tags |= {f"base_{key}": base[key] for key in ("source", "licence", "digest")}
        tags |= {"base": base["base"]} | {f"base_{k}": v for k, v in base["lineage"].items()}
    return tags


def _announce(
    settings: Settings, base: Mapping[str, Any], facts: Mapping[str, Any], step: int
) -> None:
    some = facts["trained_parameters"] != facts["parameters"]
    print(
        f"train: {facts['parameters']:,} parameters"
        + (f" of {base['base']}" if base["base"] else "")
        + (f", of which {facts['trained_parameters']:,} are trained" if some else "")
        + f", {settings.train.steps:,} steps of"
        f" {settings.train.batch_size * settings.model.context:,} tokens, on"
        f" {facts['processes']} x {facts['device']} in {facts['dtype']}"
        + (f"; going on from step {step:,}" if step >= 0 else ""),
        file=sys.stderr,
        flush=True,
    )


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("tokens", "base", "model", "curves", "metrics"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    stages.run(main, parser)
