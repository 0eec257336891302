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
import sys
import time
from pathlib import Path
from typing import TextIO

import torch

from nanogpt import checkpoint, optim, registry, stages, tracking
from nanogpt.batches import window_count
from nanogpt.card import write_card
from nanogpt.config import Settings
from nanogpt.distributed import World, join, process_count
from nanogpt.errors import UserError
from nanogpt.files import whole_folder, write_text
from nanogpt.journal import Journal, read, write_curves
from nanogpt.model import GPT, GPTConfig
from nanogpt.tokens import Tokens, open_tokens
from nanogpt.trainer import Progress, Record, Save, fit
from nanogpt.weights import save_model, weights_sha256


def main(args: argparse.Namespace, settings: Settings) -> None:
    tokens = open_tokens(args.tokens)
    check(settings, tokens)
    processes = process_count(settings.machine)
    if processes > 1 and "RANK" not in os.environ:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *torchrun, "-m", "nanogpt.stages.train", *sys.argv[1:]]
        os.execv(sys.executable, command)
    world = join(settings.machine)
    try:
        train(args, settings, tokens, world)
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
    shape = GPTConfig(
        vocab_size=tokens.manifest["vocab_size"],
        head_dim=settings.model.n_embd // settings.model.n_head,
        **settings.model.model_dump(),
    )
    torch.manual_seed(settings.seed)
    model = GPT(shape, world.compute).to(world.device)
    optimizers = optim.build(model, settings.train)

    same = settings.model_dump(include={"seed", "model", "train"})
    fingerprint = checkpoint.fingerprint(same, tokens.digest)
    folder = Path(settings.data, "state", fingerprint[:16])
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("w")
    if world.rank == 0:
        _hold(lock, folder)
    world.barrier()
    last = folder / "last.safetensors"
    progress = _resume(last, model, optimizers) if last.exists() else None
    if world.rank > 0:
        _fit(model, optimizers, tokens, settings, world, progress, lambda *_: None, lambda _: None)
        return

    journal = Journal(folder / "journal.jsonl", progress.step if progress else None)
    facts = world.facts() | {"parameters": model.parameter_count()}
    print(
        f"train: {facts['parameters']:,} parameters, {settings.train.steps:,} steps of"
        f" {settings.train.batch_size * shape.context:,} tokens, on {facts['processes']} x"
        f" {facts['device']} in {facts['dtype']}"
        + (f"; going on from step {progress.step:,}" if progress else ""),
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

    def save(progress: Progress) -> None:
        weights = dict(model.named_parameters())
        if progress.best_step == progress.step:
            checkpoint.write(folder / "best.safetensors", weights, {"step": progress.step})
        journal.save()  # before the state: a resume drops the rows that no state covers
        checkpoint.write(last, {**weights, **optim.state_tensors(optimizers)}, vars(progress))
        run.sync(progress.step)

    try:
        progress = _fit(model, optimizers, tokens, settings, world, progress, journal.record, save)
        publish(args, settings, tokens, model, progress, folder)
        registry.register(
            run,
            args.model,
            weights_sha256=weights_sha256(args.model),
            step=progress.best_step,
            metrics={"val_loss": progress.best_loss},
            tags={"tokens_sha256": tokens.digest},
            sampling=settings.sample.model_dump(),
        )
    except KeyboardInterrupt:
        run.finish("KILLED")
        raise
    except BaseException:
        run.finish("FAILED")
        raise
    if run.finish("FINISHED"):
        shutil.rmtree(folder)


def _fit(
    model: GPT,
    optimizers: list[torch.optim.Optimizer],
    tokens: Tokens,
    settings: Settings,
    world: World,
    progress: Progress | None,
    record: Record,
    save: Save,
) -> Progress:
    progress = progress or Progress()
    splits = tokens.split("train"), tokens.split("val")
    fit(model, optimizers, *splits, settings, world, progress, record, save)
    return progress


def _hold(lock: TextIO, folder: Path) -> None:
    """Keep a second training away; workers of a killed one may need a moment to see that."""
    for _ in range(100):
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
    raise UserError(f"another process is training this very model, in {folder}; wait for it")


def _resume(path: Path, model: GPT, optimizers: list[torch.optim.Optimizer]) -> Progress:
    """Put back a save of this training."""
    tensors, about = checkpoint.read(path)
    try:
        progress = Progress(**about)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors[name])
        optim.load_state_tensors(optimizers, tensors)
    except (TypeError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{path} belongs to another model ({error}); remove it to train anew"
        ) from None
    return progress


def publish(
    args: argparse.Namespace,
    settings: Settings,
    tokens: Tokens,
    model: GPT,
    progress: Progress,
    state: Path,
) -> None:
    """Write the best weights as a model directory, whole or not at all, and the curves."""
    best, about = checkpoint.read(state / "best.safetensors")
    if about["step"] != progress.best_step:
        raise UserError(f"the two saves in {state} do not belong together; remove it to train anew")
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
