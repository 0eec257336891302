"""Two machines that decide at once leave the better one as champion, however they take turns."""

import itertools
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanogpt.scoring.blocks import Scores
from nanogpt.tracking.client import connect
from nanogpt.tracking.versions import gate, history
from tests.kit.trainings import client, scores, trial

NAME = "nanogpt-plays"
BITS = {"1": 2.5, "2": 2.2, "3": 2.0, "4": 2.1, "5": 2.6}  # of each version
TRIALS = {version: trial(bits) for version, bits in BITS.items()}


@dataclass
class Server:
    """What the gate needs of MLflow, in memory, so that thousands of turns can be tried."""

    alias: str = "1"
    tags: dict[str, str] = field(default_factory=dict)

    def get_registered_model(self, name: str) -> Any:
        aliases = {"champion": self.alias}
        return SimpleNamespace(aliases=aliases, creation_timestamp=1, description="", tags={})

    def get_model_version(self, name: str, version: str) -> Any:
        return SimpleNamespace(tags={})

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1", tags=dict(self.tags))

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        self.tags[key] = value

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.alias = version

    def update_registered_model(self, name: str, description: str) -> None:
        pass


class Turns:
    """Lets one of several threads go on by one request at a time, in a given order.

    Args:
        order: the number of the thread whose turn it is; when it ends, all go on by themselves.
    """

    def __init__(self, order: Iterator[int], count: int) -> None:
        self.order, self.running = order, set(range(count))
        self.given, self.changed = 0, threading.Condition()
        self.now = next(order, None)

    def take(self, number: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.now in (number, None), 30)

    def give(self) -> None:
        with self.changed:
            self.given += 1
            self.now = next((n for n in self.order if n in self.running), None)
            self.changed.notify_all()

    def end(self, number: int) -> None:
        with self.changed:
            self.running.discard(number)
            if self.now == number:
                self.now = next((n for n in self.order if n in self.running), None)
            self.changed.notify_all()


class InTurns:
    """A client each of whose requests waits for its turn."""

    def __init__(self, client: Any, turns: Turns, number: int) -> None:
        self.client, self.turns, self.number = client, turns, number

    def __getattr__(self, name: str) -> Any:
        def request(*words: Any, **options: Any) -> Any:
            self.turns.take(self.number)
            try:
                return getattr(self.client, name)(*words, **options)
            finally:
                self.turns.give()

        return request


def race(server: Any, versions: list[str], order: Iterator[int]) -> list[gate.Outcome]:
    """Have all versions challenge the champion at once, whose requests take turns."""
    turns = Turns(order, len(versions))

    def decide(number: int) -> gate.Outcome:
        version = SimpleNamespace(name=NAME, version=versions[number])
        try:
            taking = InTurns(server, turns, number)
            return gate.challenge(taking, version, TRIALS[version.version])  # type: ignore[arg-type]
        finally:
            turns.end(number)

    with ThreadPoolExecutor(len(versions)) as pool:
        return list(pool.map(decide, range(len(versions))))


@pytest.fixture(autouse=True)
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {version: scores(bits, seed=int(version)) for version, bits in BITS.items()}
    monkeypatch.setattr(gate, "rescored", lambda client, name, version, trial: known[version])


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "experiment", lambda client, recipe: "1")
    monkeypatch.setattr(history, "_person", lambda: "somebody")
    monkeypatch.setattr(gate, "paired", remembered(gate.paired))


def remembered(paired: Any) -> Any:
    """The same comparison is made once for all races."""
    found: dict[tuple[float, float], Any] = {}

    def ask(new: Scores, old: Scores, confidence: float) -> Any:
        key = float(new.nats.sum()), float(old.nats.sum())
        if key not in found:
            found[key] = paired(new, old, confidence)
        return found[key]

    return ask


def requests() -> int:
    """How many requests one decision makes that nobody is in the way of."""
    turns = Turns(itertools.repeat(0, 999), 1)
    version = SimpleNamespace(name=NAME, version="2")
    gate.challenge(InTurns(Server(), turns, 0), version, TRIALS["2"])  # type: ignore[arg-type]
    return turns.given


@pytest.mark.parametrize("versions", [["2", "3"], ["3", "2"], ["3", "5"]])
def test_the_better_of_two_is_champion_whichever_pauses_where(
    in_memory: None, versions: list[str]
) -> None:
    count = requests()
    for first, second in itertools.product(range(count + 1), repeat=2):
        # one goes on to some request and pauses, the other to some request, then both to their ends
        order = [0] * first + [1] * second + [0] * 99 + [1] * 99
        server = Server()
        race(server, versions, iter(order))
        assert server.alias == "3", (first, second)


def test_the_best_of_three_is_champion_in_any_order_of_turns(in_memory: None) -> None:
    for seed in range(300):
        dice = random.Random(seed)
        server = Server()
        order = [dice.choice([0, 0, 0, 1, 2]) for _ in range(30)]
        order += [dice.choice([0, 1, 2, 2, 2]) for _ in range(200)]
        race(server, ["2", "3", "4"], iter(order))
        assert server.alias == "3", seed


def test_one_that_is_killed_decides_anew_when_its_scores_are_sent_again(in_memory: None) -> None:
    class Dying:
        """A client whose process pauses after some requests, and is killed after some more."""

        def __init__(self, server: Server, pause: int, end: int, meanwhile: Any) -> None:
            self.server, self.left = server, iter(range(end))
            self.pause, self.meanwhile = pause, meanwhile

        def __getattr__(self, name: str) -> Any:
            if next(self.left) == self.pause:  # raises StopIteration at its end
                self.meanwhile()
            return getattr(self.server, name)

    def challenge(by: Any, number: str) -> None:
        version = SimpleNamespace(name=NAME, version=number)
        gate.challenge(by, version, TRIALS[number])

    count = requests()
    for pause, end in itertools.combinations(range(count + 1), 2):
        server = Server()
        dying = Dying(server, pause, end, partial(challenge, server, "3"))
        with suppress(StopIteration):
            challenge(dying, "2")
        challenge(server, "2")
        assert server.alias == "3", (pause, end)


def test_a_machine_that_pauses_before_it_sets_the_alias_undoes_nothing(root: Path) -> None:
    client().create_registered_model(NAME)
    for _ in range(3):
        client().create_model_version(NAME, "file:///elsewhere")
    history.move(connect(), NAME, "champion", "1", "the first", by="gate")
    paused, go_on = threading.Event(), threading.Event()

    class Pausing:
        """A client that stops for a while when it is about to set the alias."""

        def __init__(self) -> None:
            self.client = connect()

        def __getattr__(self, name: str) -> Any:
            if name == "set_registered_model_alias":
                paused.set()
                go_on.wait(60)
            return getattr(self.client, name)

    def decide(by: Any, number: str) -> gate.Outcome:
        return gate.challenge(by, client().get_model_version(NAME, number), TRIALS[number])

    with ThreadPoolExecutor(1) as pool:
        worse = pool.submit(decide, Pausing(), "2")
        assert paused.wait(60)
        better = decide(connect(), "3")
        go_on.set()
        assert not worse.result(60).promoted
    assert better.promoted
    assert str(client().get_registered_model(NAME).aliases["champion"]) == "3"
    assert worse.result().reason == (
        "version 3, of the same time, is champion, as it is the better one:"
        " 2.0000 bits per byte, this one 2.2000 bits per byte"
    )
    assert worse.result().reason == history.moves(connect(), NAME)[-1].why
