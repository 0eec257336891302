"""`kill -9` and SIGTERM at random instants of a training, on one and on two processes.

    make torture                              # 50 kills each, some 15 minutes each
    NANOGPT_TORTURE_SEED=7 make torture       # the instants of a seed again

An instant is the n-th time that a process is about to change a file of some kind, or a moment
later. There the process stops by itself, is looked at, and is ended from outside: with all others,
alone, in place of its launcher, or by being told to stop. Afterwards no file may be unreadable, and
the same command goes on; at the end everything must be as if nothing had happened.
"""

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.kit.left_behind import every_file_is_readable, everything, tracked
from tests.kit.recipes import ROOT, Recipe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

STEPS, INTERVAL = 90, 3
SETTINGS: dict[str, Any] = {
    "download__corpus": "text/*.txt",
    "train__steps": STEPS,
    "train__eval_interval": INTERVAL,
    "train__batch_size": 64,
}
PATIENCE = 60  # seconds for processes that lost one of them to end by themselves

STATE = r"data/test/state/\w+"
SAVE = rf"{STATE}/save-\d+"
WORKSHOP = r"\.nanogpt-\w+\.partial"  # in which a file or folder is made


@dataclass(frozen=True)
class Kind:
    """Changes of files that `pattern` finds, once `since` was found."""

    pattern: str
    since: str = ""
    later: float = 0.0  # and at most so many seconds later, before the next such change
    nth: int = 10**9  # no more than so many, so that a training takes several kills


# `write`, `mkdir`, `rename` or `remove`, and a path: about to happen
FIRST = "MLflow's tables"
UNDER_WAY = {
    "start": Kind(rf"write {STATE}\.lock$", later=0.5, nth=1),
    "step or validation": Kind(rf"rename {SAVE}\.partial$", later=math.inf, nth=3),
    "save": Kind(rf"\w+ {SAVE}\.partial/", nth=12),
    "rename of a save": Kind(rf"rename {SAVE}\.partial$", nth=3),
    "removal of an old save": Kind(rf"(re\w+|rm\w+) {SAVE}(/|$)", nth=8),
    "journal and run": Kind(rf"{STATE}/({WORKSHOP}/new-)?(journal|run)\.json", nth=10),
}
AT_THE_END = {
    "publish": Kind(
        rf"data/test/({WORKSHOP}/new-)?(model|curves|train)",
        since=rf"mkdir data/test/{WORKSHOP}/new-model",
    ),
    "register": Kind(
        rf"rename data/\.outbox/{WORKSHOP}/new-training-[\w.-]+$", later=math.inf, nth=1
    ),
    "mark of the end": Kind(rf"{STATE}/({WORKSHOP}/new-)?finished\.json"),
}
KINDS = UNDER_WAY | AT_THE_END | {FIRST: Kind(r"write mlflow\.db\.lock", later=1.5, nth=1)}

# what the threads of a process were about when it was stopped, and functions that say so
DOING = {
    "in a step": {"_accumulate", "norm", "step"},
    "in a validation": {"total_loss"},
    "in a save": {"_finish"},
    "in the publish": {"publish"},
    "in the registration": {"_send_training"},
    "in a removal": {"remove_folder"},
    "talking to MLflow": {"connect", "open", "send"},
}


@dataclass(frozen=True)
class Aim:
    """An instant: after the `nth` change of the kind, in the process of this rank."""

    pattern: str
    since: str
    nth: int
    delay: float  # seconds
    rank: str
    alone: bool


class Torture:
    """Trainings of one recipe, all of them killed now and then but the first."""

    def __init__(self, tokenized: Path, folder: Path, processes: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.processes = processes
        self.folder = folder
        self.tokenized = tokenized
        self.hit: Counter[str] = Counter()
        self.whole = self.new("whole")
        nowhere = Aim("$^", "$^", 0, 0.0, "0", processes == 1)
        process = self.start(self.whole, nowhere)
        printed, _ = process.communicate()
        assert process.returncode == 0, printed
        self.changes = [(line["time"], line["change"]) for line in self.log()]
        self.expected = everything(self.whole)
        self.metrics = tracked(self.whole)

    def new(self, name: str) -> Recipe:
        """A recipe with tokens, and without a database of MLflow."""
        shutil.copytree(self.tokenized, self.folder / name, symlinks=True)
        (self.folder / name / "mlflow.db").unlink()  # the first kill is in the making of its tables
        return Recipe(self.folder / name, machine__processes=self.processes, **SETTINGS)

    def start(self, recipe: Recipe, aim: Aim) -> "subprocess.Popen[str]":
        """Start the training, watched."""
        (self.folder / "log").unlink(missing_ok=True)
        watched = {
            "PYTHONPATH": str(ROOT / "tests" / "kit" / "watch"),
            "AIM": json.dumps(asdict(aim)),
            "LOG": str(self.folder / "log"),
        }
        words = [f"{key}={value}" for key, value in watched.items()]
        return recipe.start(["env", *words, *recipe.command("train")])

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]

    def aim(self, kind: Kind) -> Aim:
        """A random instant of a kind, among those that the undisturbed training had."""
        rank = "1" if kind is KINDS["save"] and self.random.random() < self.processes - 1.5 else "0"
        since = next(
            i for i, (_, change) in enumerate(self.changes) if re.search(kind.since, change)
        )
        times = [at for at, change in self.changes[since:] if re.search(kind.pattern, change)]
        nth = self.random.randint(1, min(len(times), kind.nth))
        delay = 0.0
        if kind.later:
            gap = [*times, self.changes[-1][0]][nth] - times[nth - 1]
            delay = self.random.random() * min(gap, kind.later)
        if rank == "1":
            nth = self.random.randint(1, 6)
        return Aim(kind.pattern, kind.since, nth, delay, rank, self.processes == 1)

    def kill(self, recipe: Recipe, name: str) -> bool:
        """Train until an instant of this kind, and kill some or all processes there.

        Returns:
            Whether it came before the end.
        """
        aim = self.aim(KINDS[name])
        several = ["launcher", "it"] if self.processes > 1 else []
        victim = self.random.choice(["all", "told", *several])
        process = self.start(recipe, aim)
        launcher = psutil.Process(process.pid)
        family = [launcher]
        while not (stopped := [p for p in family if is_stopped(p)]) and process.poll() is None:
            time.sleep(0.002)
            family = [launcher, *children(launcher)]
        if not stopped:  # the instant was later than its end
            printed, _ = process.communicate()
            assert process.returncode == 0, printed
            return False
        victims = {"all": family, "it": stopped}.get(victim, [launcher])
        for member in victims:
            member.send_signal(signal.SIGTERM if victim == "told" else signal.SIGKILL)
        if victim in ("told", "launcher"):
            stopped[0].send_signal(signal.SIGCONT)
        printed, _ = process.communicate(timeout=PATIENCE)  # until the last of them is gone
        assert "Traceback" not in printed, printed
        if victim == "told" and process.returncode == 0:  # after its last act
            assert list(recipe.data.glob("state/*/finished.json")), printed
        elif victim == "told":
            assert process.returncode == 143, printed
            assert "run the same command to go on" in printed
        if victim == "it" and self.processes > 1:
            assert process.returncode == 1, printed
            assert "run the same command to go on" in printed
        (line,) = [line for line in self.log() if "stopped" in line]
        doing = [what for what, names in DOING.items() if names & set(line["stopped"])]
        self.hit.update([name, *doing])
        when = f"{aim.delay:.3f} s after" if aim.delay else "before"
        print(f"{name}: {victim} of {self.processes}, {when} {line['after']}:", ", ".join(doing))
        every_file_is_readable(recipe)
        return True

    def hands(self, kills: int) -> Iterator[list[str]]:
        """What befalls each training: five kills under way, then three at its end, or fewer."""
        middle, end = self.shuffled(UNDER_WAY), self.shuffled(AT_THE_END)
        while kills:
            last = min(3, kills // 2)
            first = min(5, kills - last)
            yield [FIRST, *islice(middle, first - 1), *islice(end, last)]
            kills -= first + last

    def train(self, name: str, kinds: list[str]) -> None:
        """Train to the end, with these kills on the way."""
        recipe = self.new(name)
        while kinds and not list(recipe.data.glob("state/*/finished.json")):
            if self.kill(recipe, kinds[0]):
                kinds.pop(0)
        recipe.run("train")  # on to the end; or it is published once more
        assert not list(recipe.folder.glob("data/**/*.partial"))
        self.ends_as_undisturbed(recipe)
        if kinds:
            self.train(f"{name} again", kinds)

    def shuffled(self, kinds: dict[str, Kind]) -> Iterator[str]:
        """All of them in random order, again and again."""
        while True:
            yield from self.random.sample(list(kinds), len(kinds))

    def ends_as_undisturbed(self, recipe: Recipe) -> None:
        """The same files, the same bytes, and one run in MLflow."""
        there = everything(recipe)
        assert set(there) == set(self.expected)
        assert [name for name in there if there[name] != self.expected[name]] == []
        assert tracked(recipe) == self.metrics


def is_stopped(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "kills"),
    [
        (1, 2),
        (2, 2),
        pytest.param(1, 50, marks=pytest.mark.torture),
        pytest.param(2, 50, marks=pytest.mark.torture),
    ],
)
def test_killed_anywhere_it_ends_as_undisturbed(
    tokenized: Path, tmp_path: Path, processes: int, kills: int
) -> None:
    # the short form is the same each time: what it finds is due to a change
    chosen = random.randrange(10**6) if kills == 50 else 0
    seed = int(os.environ.get("NANOGPT_TORTURE_SEED", chosen))
    kills = int(os.environ.get("NANOGPT_TORTURE_KILLS", kills))
    print(f"NANOGPT_TORTURE_SEED={seed}")
    torture = Torture(tokenized, tmp_path, processes, seed)
    for number, hand in enumerate(torture.hands(kills)):
        torture.train(f"killed {number}", hand)
    print(f"{kills} kills on {processes}:", dict(torture.hit))
    assert kills < 50 or set(torture.hit) == {*KINDS, *DOING}
