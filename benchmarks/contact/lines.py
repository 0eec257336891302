"""One line of `make gpu`, in a process of its own; prints JSON: its checks.

    python -m benchmarks.contact.lines NAME '{"device": "cuda", "began": 0, ...}'

A check is passed, failed, a mere figure, or not run, with the reason.
"""

import gc
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor

from benchmarks.contact.asked import Asked, Check, check, peer
from benchmarks.contact.model import numbers
from benchmarks.contact.training import (
    LARGE,
    SMALL,
    Ran,
    characters,
    code,
    noise,
    settings_of,
    together,
    train,
)
from nanogpt.machine.devices import peak_flops
from nanogpt.machine.distributed import World, join
from nanogpt.sizing import memory

BEST = 1.4697  # nanoGPT's on tiny Shakespeare, by its README
TINY = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"  # of tiny Shakespeare
NEAR = 0.02  # nats, that rounding may make of a loss in these short trainings


def repeats(asked: Asked) -> Iterator[Check]:
    """The same bytes again, also after a stop, and two compilations."""
    settings = asked.settings(SMALL, 60, train={"eval_interval": 2 if asked.quick else 20})
    data = together(code())
    join(settings.machine, trains=True)  # which compiles something to see whether that works
    counters.clear()
    whole = train(settings, data, keeps=True)
    graphs = counters["stats"]["unique_graphs"]
    wanted = 2 if whole.world.compile else 0
    yield check("graphs compiled before the end", graphs, str(wanted), graphs == wanted)
    again = train(settings, data)
    yield check(
        "the same training again",
        "the same bytes" if whole.digest == again.digest else "other bytes",
        "the same bytes",
        whole.digest == again.digest,
    )
    resumed = train(settings, data, go_on=whole.saves[1])
    same = whole.digest == resumed.digest
    yield check(
        f"gone on from step {whole.saves[1][0].step}",
        "the same bytes" if same else "other bytes",
        "the same bytes",
        same,
    )


def speed(asked: Asked) -> Iterator[Check]:
    """GPT-2 124M at half a million tokens a step, beside nanoGPT's compiled."""
    # torch looks for it once, at a process's first product: too early for the last training here
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    data = noise(100_000 if asked.quick else 10_000_000)
    plain = {"deterministic": False}
    settings = asked.settings(LARGE, 16, train={"log_interval": 2}, machine=plain)
    ours = train(settings, data, scores=False)
    tokens = ours.settings.train.batch_size * ours.settings.model.context
    per_second = tokens / ours.step_seconds
    yield Check("tokens a second, GPT-2 124M", f"{per_second:,.0f}")
    yield Check("windows in a pass", str(ours.settings.machine.micro_batch))
    assert ours.model is not None
    if peak := peak_flops(ours.world.device):
        used = ours.model.flops_per_token(ours.settings.model.context) * per_second / peak
        yield check("of the device's bfloat16 peak", f"{used:.1%}", "at least 45 %", used >= 0.45)
    else:
        yield Check(
            "of the device's bfloat16 peak",
            "",
            "at least 45 %",
            "not run: the peak of this device is not known here",
        )
    ours.model = None
    gc.collect()
    for what, entries in (
        ("with `deterministic: true`", data.vocabulary),
        ("as the recipe is, with that and 50,257 entries", 50257),
    ):
        settings = asked.settings(LARGE, 12, train={"log_interval": 2})
        also = train(settings, replace(data, vocabulary=entries), scores=False)
        yield Check(f"tokens a second {what}", f"{tokens / also.step_seconds:,.0f}")
        also.model = None
        gc.collect()
    if asked.device == "cuda":
        torch.cuda.empty_cache()  # for what comes next, which is sized by what is free
    if not asked.peer:
        yield Check(
            "of nanoGPT's compiled tokens a second",
            "",
            "at least 1.1 times",
            "not run: say PEER=path/to/nanoGPT",
        )
    else:
        flags = ["--wandb_log=False", "--eval_iters=1", "--eval_interval=1000", "--log_interval=1"]
        theirs, text = peer(asked, "config/train_gpt2.py", *flags, "--max_iters=16", data=data)
        found = re.search(r"tokens per iteration will be: ([\d,]+)", text)
        if not found:
            raise ChildProcessError("nanoGPT prints no tokens per iteration")
        its = int(found[1].replace(",", "")) / theirs.step_seconds
        ratio = per_second / its
        yield check(
            "of nanoGPT's compiled tokens a second",
            f"{ratio:.2f} times {its:,.0f}",
            "at least 1.1 times",
            ratio >= 1.1,
        )


def loss(asked: Asked) -> Iterator[Check]:
    """shakespeare_gpu to nanoGPT's best loss, in a third of nanoGPT's time."""
    wanted = f"{BEST} nats in a third of nanoGPT's time"
    if not asked.text or (not asked.quick and sha256(Path(asked.text)) != TINY):
        why = "is not tiny Shakespeare" if asked.text else "is not given: tiny Shakespeare"
        yield Check("time to nanoGPT's best", "", wanted, f"not run: TEXT= {why}")
        return
    settings = settings_of(SMALL, asked.device)
    settings = asked.settings(SMALL, 1) if asked.quick else settings
    clock = lambda: time.time() - asked.began  # noqa: E731
    ours = train(settings, characters(Path(asked.text)), clock=clock)
    best = min(row["val_loss"] for row in ours.rows.values() if "val_loss" in row)
    yield check("lowest loss of `shakespeare_gpu`", f"{best:.4f} nats", f"{BEST}", best <= BEST)
    there = (step for step, row in sorted(ours.rows.items()) if row.get("val_loss", 9) <= BEST)
    step = next(there, max(ours.times))
    seconds = ours.times[step]
    yield Check(
        "seconds to there, imports and compilation included", f"{seconds:.1f}, {step} steps"
    )
    if not asked.peer:
        yield Check(
            "time to nanoGPT's best",
            f"{seconds:.1f} s",
            wanted,
            "not run: say PEER=path/to/nanoGPT",
        )
        return
    theirs, _ = peer(
        asked,
        "config/train_shakespeare_char.py",
        "--max_iters=4" if asked.quick else "--max_iters=5000",
    )
    lines = theirs.command.lines
    found = (
        (at, re.match(r"step \d+: train loss [\d.]+, val loss ([\d.]+)", line))
        for at, line in lines
    )
    its = next((at for at, m in found if m and float(m[1]) <= BEST), None)
    end = its or theirs.command.seconds
    said = f"{seconds:.1f} s, nanoGPT {'' if its else 'never in '}{end:.1f} s by its own estimates"
    yield check("time to nanoGPT's best", said, wanted, best <= BEST and seconds <= end / 3)


def sizes(asked: Asked) -> Iterator[Check]:
    """What a training takes is what was counted before it."""
    for compiled in (False, True):
        machine = {"compile": compiled and not asked.quick}
        settings = asked.settings(LARGE, 2, train={"batch_size": 64}, machine=machine)
        gc.collect()
        if asked.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        ran = train(settings, noise(200_000))
        counted = memory.estimate(ran.config, ran.settings, ran.world)
        taken = memory.peak(ran.world.device)
        what = f"memory counted and taken, {'compiled' if compiled else 'not compiled'}"
        said = f"{counted / 2**30:.2f} and {taken / 2**30:.2f} GiB, {counted / taken:.2f} times"
        if asked.device != "cuda":
            yield Check(what, said)  # of a CPU it is the whole process
        else:
            near = abs(counted / taken - 1) <= 0.15
            yield check(what, said, "within 15 %", near)
        del ran


def types(asked: Asked) -> Iterator[Check]:
    """float16 and bfloat16 learn what float32 does."""
    data = together(code())
    names = ["float32", "bfloat16"] + ["float16"] * (asked.device == "cuda")
    found = {}
    for name in names:
        settings = asked.settings(SMALL, 200, model={"dropout": 0.0}, machine={"dtype": name})
        ran = train(settings, data)
        found[name] = ran.curve("val_loss")[-1]
        far = found[name] / found["float32"] - 1
        yield check(
            f"loss in {name}",
            f"{found[name]:.4f} nats, {far:+.1%}",
            "within 3 % of float32's",
            abs(far) <= 0.03,
        )
        if name == "float16":
            skipped = ran.curve("skipped_steps")[-1]
            yield check("steps that float16 skipped", f"{skipped:.0f}", "under 20", skipped < 20)


def shards(asked: Asked) -> Iterator[Check]:
    """FSDP on one device learns what it learns without, compiled and not."""
    data = together(code())
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(
            "nccl" if asked.device == "cuda" else "gloo",
            rank=0,
            world_size=1,
            init_method=f"file://{folder}/meet",
        )
        sharded: Callable[[World], World] = lambda world: replace(world, parallel="fsdp")  # noqa: E731
        for compiled in (False, True):
            machine = {"compile": compiled and not asked.quick}
            settings = asked.settings(SMALL, 60, model={"dropout": 0.0}, machine=machine)
            alone, spread = train(settings, data), train(settings, data, made=sharded)
            assert spread.model is not None
            cut = all(isinstance(p, DTensor) for p in spread.model.parameters())
            yield check("fsdp: weights that are in shards", "all" if cut else "not all", "all", cut)
            yield apart(f"fsdp, {'' if compiled else 'not '}compiled", alone, spread)
        dist.destroy_process_group()


def packed(asked: Asked) -> Iterator[Check]:
    """Documents that do not see each other: FlexAttention, compiled, beside the dense mask."""
    curves = []
    for compiled in (False, True):
        machine = {"compile": compiled and not asked.quick}
        settings = asked.settings(
            SMALL, 40, model={"dropout": 0.0}, machine=machine, train={"packing": "documents"}
        )
        curves.append(train(settings, code()))
    yield apart("packed documents, compiled", *curves)


def launches(asked: Asked) -> Iterator[Check]:
    """How many kernels a step of the small model starts."""
    data, counts = together(code()), list[int]()
    train(asked.settings(SMALL, 10), data, scores=False)  # compiles, and tries kernels
    for steps in (10, 20):
        activities = [torch.profiler.ProfilerActivity.CPU]
        if asked.device == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profile:
            train(asked.settings(SMALL, steps), data, scores=False)
        # torch names some stretches of time, such as an optimizer's step, on the device as well
        there = [event for event in profile.events() or [] if not event.is_user_annotation]
        counts.append(sum(str(event.device_type).endswith("CUDA") for event in there))
    what = "kernels and copies in a step of `shakespeare_gpu`"
    if asked.device == "cuda" and not counts[1]:  # as without the right to count on this machine
        yield Check(what, "", "", "not run: torch's profiler sees no kernel here")
        return
    yield Check(what, f"{(counts[1] - counts[0]) / 10:.0f}")


def apart(what: str, one: Ran, other: Ran) -> Check:
    """How far two trainings' curves are apart in their first steps, before rounding grows."""
    curves = zip(one.curve("train_loss")[:3], other.curve("train_loss")[:3], strict=True)
    far = max(abs(a - b) for a, b in curves)
    return check(f"{what}: distance of its losses", f"{far:.2g} nats", f"under {NEAR}", far < NEAR)


LINES = (numbers, speed, repeats, loss, sizes, types, shards, packed, launches)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> None:
    name, words = sys.argv[1:]
    asked = Asked(**json.loads(words))
    (run,) = (line for line in LINES if line.__name__ == name)
    for found in run(asked):
        print(json.dumps(asdict(found)), flush=True)  # what is known is known, whatever comes


if __name__ == "__main__":
    main()
