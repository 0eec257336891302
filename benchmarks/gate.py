"""How often would a seed alone make a champion? Pairs of trainings that differ by nothing else.

    dvc repro tokenize                  # the default recipe, whose text this is about
    python -m benchmarks.gate           # 100 pairs of a small model: about 10 minutes on two cores

Of each pair the second model challenges the first, by the gate's own rule, on the test split. It is
no better but by luck, so each promotion is a wrong one. Prints a line a pair, then their number,
the spread between seeds, and how many there would have been with other least gains.
"""

import argparse
import multiprocessing
import shutil
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.processes import CORES, ROOT
from nanogpt import optim
from nanogpt.batches import Text
from nanogpt.common.command import one_line
from nanogpt.common.errors import UserError
from nanogpt.common.plain_yaml import read_yaml
from nanogpt.formats.weights import save_model
from nanogpt.machine.distributed import join
from nanogpt.scoring.blocks import Scores, score
from nanogpt.scoring.paired import Difference, paired
from nanogpt.settings import Settings, parse
from nanogpt.text.tokens import open_tokens
from nanogpt.tracking.versions.gate import bits, is_better
from nanogpt.trainer import Hooks, Progress, Trainer
from nanogpt.training.start import initial_model
from nanogpt.training.texts import windows_of

SMALL = {"n_layer": 2, "n_head": 2, "n_kv_head": 2, "n_embd": 64, "n_inner": 192, "context": 64}
ALONE = {"device": "cpu", "dtype": "float32", "compile": False, "threads": 1}
FIRST = 1000  # seed; each training has one of its own
VALIDATED = 2000  # tokens: by nothing that is chosen
GAINS = (0.0, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--tokens", type=Path, default=ROOT / "data/shakespeare/tokens")
    args = parser.parse_args()
    with one_line("bench"):
        if args.pairs < 2 or args.steps < 1:
            raise UserError("it takes 2 pairs, of 1 step each, to measure a spread")
        open_tokens(args.tokens)  # refused here, and not by each process
        settings = small(args.steps)
        found: list[Difference] = []
        costs: list[float] = []
        spawned = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(CORES, spawned, silence) as pool:
            seeds = range(FIRST, FIRST + 2 * args.pairs)
            scores = pool.map(partial(trained, settings, args.tokens), seeds)
            for first, second in zip(scores, scores, strict=True):
                costs += [bits(first), bits(second)]
                found.append(paired(second, first, settings.eval.confidence))
                won = ", promoted" * is_better(found[-1], settings.eval)
                print(f"pair {len(found)}: {found[-1]}{won}", flush=True)
        tell(settings, found, costs)


def silence() -> None:
    """No bars of several trainings in one line."""
    sys.stderr = open("/dev/null", "w", encoding="utf-8")  # noqa: SIM115 until the process ends


def small(steps: int) -> Settings:
    """The default recipe with a smaller model and fewer steps."""
    values = read_yaml(ROOT / "params.yaml")
    values["model"] |= SMALL
    values["machine"] |= ALONE
    values["train"] |= {"steps": steps, "decay_steps": steps * 4 // 5, "eval_interval": steps}
    return parse(values)


def trained(settings: Settings, folder: Path, seed: int) -> Scores:
    """What the test split costs a model after a training with this seed."""
    settings = settings.model_copy(update={"seed": seed})
    tokens, world = open_tokens(folder), join(settings.machine)
    model = initial_model(settings, tokens, Path("no base"), world.compute)
    windows, val = windows_of(tokens, settings), Text(tokens.split("val")[:VALIDATED])
    hooks = Hooks(lambda step, metrics: None, lambda progress: None, lambda loss, part: loss)
    optimizers = optim.build(model, settings.train)
    Trainer(model, optimizers, windows, val, settings, world, Progress(), hooks).fit()
    with tempfile.TemporaryDirectory() as made:
        save_model(Path(made), model.config, dict(model.named_parameters()))
        for file in tokens.tokenizer_files():
            shutil.copy(file, made)
        context, block = settings.model.context, settings.eval.block
        return score(Path(made), tokens.text("test"), context, world, block)


def tell(settings: Settings, found: list[Difference], costs: list[float]) -> None:
    won = sum(is_better(each, settings.eval) for each in found)
    mean, gains = statistics.mean(costs), [each.gain for each in found]
    half = statistics.median((each.high - each.low) / 2 for each in found)
    print(f"{won} of {len(found)} promoted: eval.least_gain is {settings.eval.least_gain:.2%}")
    spread = statistics.stdev(costs) / mean
    print(f"bits per byte: {mean:.4f}, standard deviation of seeds {spread:.2%}")
    spread = statistics.stdev(gains)
    print(f"gain in a pair: standard deviation {spread:.2%}, half of an interval {half:.2%}")
    for gain in GAINS:
        both = sum(each.low > 0 and each.gain >= gain for each in found)
        past = sum(each.low > gain for each in found)
        print(f"by {gain:.2%}: {both} promoted; {past} whose whole interval is above it")


if __name__ == "__main__":
    main()
