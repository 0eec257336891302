"""Run the tracks of docs/speedrun.md: train, score, and put a line on its board.

    make speedrun                                         # all tracks, three seeds: 12 minutes
    make speedrun TRACK=to_1.88 SEEDS=5                   # one of them
    make speedrun PEER=path/to/nanoGPT TEXT=path/to/input.txt

The lines are written anew after each seed: Ctrl-C loses the seed that is under way, no other. But a
line of more seeds stays until the new one has as many.
"""

import argparse
import datetime
import json
import math
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.about import commit, processor
from benchmarks.measures import ITS_QUICK_START
from benchmarks.processes import CORES, ROOT, check_given
from benchmarks.sides import NEEDED, Ours, Theirs, Training
from nanogpt.common.command import one_line
from nanogpt.common.errors import Told, UserError
from nanogpt.common.files import write_text
from nanogpt.common.told import raise_when_told

PAGE = ROOT / "docs/speedrun.md"
BOARD = "| track | loss | p | command, s | steps, s |"  # how the first line of the board begins
SEEDS = (1337, *range(1, 100))
QUICK = {"steps": 6, "decay_steps": 6, "eval_interval": 6}  # for tests: what runs, and no more


@dataclass(frozen=True)
class Track:
    """What is trained, on how many cores, and what has to come out."""

    recipe: Path
    cores: int
    target: float  # the mean of the loss has to be below
    unit: str
    limit: float | None  # seconds that the command may take; None: as few as possible
    peer: bool  # whether nanoGPT's quick start is run beside it


HERE = Path(__file__).parent
TRACKS = {
    "to_1.88": Track(HERE / "to_1.88.yaml", 1, 1.88, "nats a character", None, True),
    "in_120s": Track(HERE / "in_120s.yaml", 1, 1.50, "nats a character", 120, True),
    "default": Track(ROOT / "params.yaml", 2, 2.00, "bits per byte", 90, False),
}


@dataclass(frozen=True)
class Result:
    """One training: seconds of the whole command and of the steps alone, and its score."""

    command: float
    steps: float
    loss: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], prog="make speedrun")
    parser.add_argument("--track", help=f"TRACK=: some of {','.join(TRACKS)}")
    parser.add_argument("--seeds", type=int, default=3, help="SEEDS=: trainings of each track")
    parser.add_argument("--peer", type=Path, help="PEER=: a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, help="TEXT=: tiny Shakespeare, if you have it already")
    parser.add_argument(
        "--quick", type=Path, help="a few steps, and the page is written to a folder"
    )
    args = parser.parse_args()
    # the command that is under way and the temporary folder are to go then, too
    raise_when_told()
    with one_line("speedrun"):
        try:
            run(args, choose(args))
        except KeyboardInterrupt as told:
            said = "all seeds before this one are kept, where the board has no line of more"
            print(f"speedrun: stopped; {said}", file=sys.stderr)
            sys.exit(128 + (told.signal if isinstance(told, Told) else signal.SIGINT))


def choose(args: argparse.Namespace) -> list[str]:
    """The tracks to run.

    Raises:
        UserError: an argument makes no sense, or asks for what is not there.
    """
    if not 1 <= args.seeds <= len(SEEDS):
        raise UserError(f"SEEDS: {args.seeds}: say 1 to {len(SEEDS)}")
    check_given(args.text, args.peer, NEEDED)
    chosen = list(dict.fromkeys(args.track.split(","))) if args.track else list(TRACKS)
    for name in chosen:
        if name not in TRACKS:
            raise UserError(f"TRACK: no track {name!r}; there are {', '.join(TRACKS)}")
        if (cores := TRACKS[name].cores) > CORES:
            if args.track:
                raise UserError(f"TRACK: {name} is for {cores} cores, and here is {CORES}")
            print(f"speedrun: {name} needs {cores} cores: left out", file=sys.stderr)
    return [name for name in chosen if TRACKS[name].cores <= CORES]


def run(args: argparse.Namespace, chosen: Sequence[str]) -> None:
    page = args.quick / PAGE.name if args.quick else PAGE
    code = commit(ROOT)  # before the page itself differs from it
    data = args.quick or ROOT / "data/bench"
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data) as made:
        folder = Path(made).absolute()
        ours = Ours(folder, str(args.text.absolute()) if args.text else "tiny_shakespeare")
        beside = args.peer and any(TRACKS[name].peer for name in chosen)
        theirs = Theirs(folder / "peer", args.peer, ours) if beside else None
        tokens = {name: tokens_of(TRACKS[name], ours, args.quick) for name in chosen}
        # files come into the system's cache, and MLflow makes its tables
        ours.train(HERE / "to_1.88.yaml", 1, train=QUICK)
        found: dict[str, list[Result]] = {name: [] for name in chosen}
        its: list[Result] = []
        for seed in SEEDS[: args.seeds]:
            for name in chosen:
                found[name].append(train(TRACKS[name], ours, tokens[name], seed, args.quick))
                print(f"speedrun: {name}, seed {seed}: {found[name][-1]}", file=sys.stderr)
            if theirs:
                its.append(train_peer(theirs, seed, args.quick))
                print(f"speedrun: nanoGPT, seed {seed}: {its[-1]}", file=sys.stderr)
            text = (page if page.exists() else PAGE).read_text(encoding="utf-8")
            rows = [
                line(name, found[name], its if TRACKS[name].peer else [], code, bool(args.quick))
                for name in chosen
            ]
            for row in rows:
                text = with_line(text, row)
            write_text(page, text)
    print("\n".join(rows), flush=True)
    if set(rows) - set(text.splitlines()):
        print("speedrun: the board keeps lines of more seeds", file=sys.stderr)


def tokens_of(track: Track, ours: Ours, quick: Path | None) -> Path:
    """The tokens of a track's recipe; those by characters are there already."""
    values = yaml.safe_load(track.recipe.read_text(encoding="utf-8"))
    if values["tokenize"]["tokenizer"] == "char":
        return ours.tokens
    changes: dict[str, Any] = {}
    if quick:
        corpus = str(ours.text)
        changes = {"download": {"corpus": corpus, "text_field": "text"}}
        changes |= {"tokenize": {"vocab_size": 260, "val": 0.1, "test": 0.1}}
    recipe = ours.recipe(track.recipe, **changes)
    for stage in ("download", "tokenize"):
        ours.run(stage, recipe)
    return ours.folder / "data" / recipe / "tokens"


def train(track: Track, ours: Ours, tokens: Path, seed: int, quick: Path | None) -> Result:
    """Train a track's recipe as `dvc.yaml` does, and score what it published, in float32."""
    changes = {"train": QUICK} if quick else {}
    training = ours.train(track.recipe, track.cores, tokens, seed=seed, **changes)
    if track.unit == "bits per byte":  # of the test split, by the stage that scores it
        recipe = training.model.parent.name
        ours.run("eval", recipe, track.cores)
        scores = json.loads(training.model.with_name("eval.json").read_text(encoding="utf-8"))
        loss = scores["bits_per_byte"]
    else:
        context = yaml.safe_load(track.recipe.read_text(encoding="utf-8"))["model"]["context"]
        ours.score(training, context, track.cores)
        loss = training.score["loss"]
    return result(training, loss)


def train_peer(theirs: Theirs, seed: int, quick: Path | None) -> Result:
    """Train nanoGPT's quick start."""
    count, often = (6, 6) if quick else (2000, 250)
    flags = [*ITS_QUICK_START, f"--max_iters={count}", f"--eval_interval={often}"]
    training = theirs.train(flags, 1, seed)
    theirs.score(training, 64, 1)
    return result(training, training.score["loss"])


def result(training: Training, loss: float) -> Result:
    steps = training.losses[-1]["step"] * training.step_seconds
    return Result(training.command.seconds, steps, loss)


def below(losses: Sequence[float], target: float) -> float:
    """p of a mean below `target` by chance: Student's t, one side; NaN: one loss says nothing."""
    from scipy.special import stdtr

    if len(losses) < 2:
        return math.nan
    off, spread = statistics.fmean(losses) - target, statistics.stdev(losses)
    if not spread:
        return float(off >= 0)
    return float(stdtr(len(losses) - 1, off / (spread / math.sqrt(len(losses)))))


def line(
    name: str, ours: Sequence[Result], theirs: Sequence[Result], code: str, small: bool
) -> str:
    """A line of the board: means of losses, medians of seconds and of their ratios."""
    track = TRACKS[name]
    losses = [each.loss for each in ours]
    p = below(losses, track.target)
    over = track.limit is not None and max(each.command for each in ours) > track.limit
    spread = f" ± {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
    cells = [
        name,
        f"{statistics.fmean(losses):.4f}{spread}",
        "" if math.isnan(p) else f"{p:.2g}",
        ("over the limit: " if over else "") + median([each.command for each in ours]),
        median([each.steps for each in ours]),
        str(len(ours)),
        *beside(ours, theirs),
        f"{track.cores} core{'s'[: track.cores > 1]} of {processor()}" + " in small" * small,
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        code,
    ]
    return f"| {' | '.join(cells)} |"


def beside(ours: Sequence[Result], theirs: Sequence[Result]) -> list[str]:
    """Loss and seconds of nanoGPT, and how many times longer it took."""
    if not theirs:
        return ["", ""]
    pairs = list(zip(ours, theirs, strict=True))
    loss = statistics.fmean(its.loss for its in theirs)
    command = median([its.command for its in theirs])
    steps = median([its.steps for its in theirs])
    times = [
        statistics.median(its / own for own, its in each)
        for each in (
            [(own.command, its.command) for own, its in pairs],
            [(own.steps, its.steps) for own, its in pairs],
        )
    ]
    return [f"{loss:.4f}, {command} s, {steps} s", f"{times[0]:.1f} x, {times[1]:.1f} x"]


def median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f}"


def with_line(page: str, new: str) -> str:
    """The page with a line at the board's end, in the place of one of this track, machine, commit.

    As it was, if that one is of more seeds: a run that is stopped early takes nothing away.

    Raises:
        UserError: the page has no board.
    """
    lines = page.splitlines()
    heads = [index for index, text in enumerate(lines) if text.startswith(BOARD)]
    if not heads:
        raise UserError(f"{PAGE.name} has no board; its first line begins with {BOARD}")
    end = heads[0] + 2
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    rows = lines[heads[0] + 2 : end]
    if any(key(row) == key(new) and seeds(row) > seeds(new) for row in rows):
        return page
    kept = [row for row in rows if key(row) != key(new)]
    return "\n".join((*lines[: heads[0] + 2], *kept, new, *lines[end:], ""))


def key(row: str) -> tuple[str, ...]:
    """Track, machine, commit of a line."""
    cells = cells_of(row)
    return cells[0], cells[-3], cells[-1]


def seeds(row: str) -> int:
    return int(cells_of(row)[5])


def cells_of(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


if __name__ == "__main__":
    main()
