"""One training on two machines, and what becomes of it when one of them loses its power.

The machines are network namespaces with a cable between them; the folder that they share is this
machine's own.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanogpt.formats.weights import weights_sha256
from tests.kit.recipes import Recipe

NAMES = [f"nanogpt-{os.getpid()}-{n}" for n in (1, 2)]
PORT = 29400


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
    return done.stdout


def missing() -> str | None:
    """Why there can be no such machines here."""
    if not shutil.which("ip"):
        return "the command `ip` (iproute2) is missing"
    try:
        ip("netns", "add", NAMES[0])
        ip("netns", "delete", NAMES[0])
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not permitted: {error.stderr.strip()}"
    return None


WHY = missing()
pytestmark = [pytest.mark.torture, pytest.mark.skipif(bool(WHY), reason=str(WHY))]


class Host:
    """A machine of its own, as far as the network can tell."""

    def __init__(self, number: int) -> None:
        self.name = NAMES[number - 1]
        self.cable = f"ngt{os.getpid()}-{number}"
        self.address = f"10.77.0.{number}"

    def plug(self) -> None:
        ip("-n", self.name, "link", "set", self.cable, "up")

    def start(self, recipe: Recipe) -> "subprocess.Popen[str]":
        return recipe.start(["ip", "netns", "exec", self.name, *recipe.command("train")])

    def cut_the_power(self) -> None:
        """End everything at once, and no packet says so."""
        ip("-n", self.name, "link", "set", self.cable, "down")
        for pid in ip("netns", "pids", self.name).split():
            os.kill(int(pid), signal.SIGKILL)


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Two hosts with a cable between them."""
    made = [Host(number) for number in (1, 2)]
    for host in made:
        ip("netns", "add", host.name)
        ip("-n", host.name, "link", "set", "lo", "up")
    ends = [["name", host.cable, "netns", host.name] for host in made]
    ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
    for host in made:
        ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.cable)
        host.plug()
    yield made
    for host in made:
        host.cut_the_power()
        ip("netns", "delete", host.name)


def new_recipe(tokenized: Path, folder: Path, nodes: int | str) -> Recipe:
    """A recipe for both hosts; they meet at the second, and the first comes first in rank."""
    shutil.copytree(tokenized, folder, symlinks=True)
    return Recipe(
        folder,
        download__corpus="text/*.txt",
        train__optimizer="adamw",
        train__learning_rate=0.001,  # rounding grows with it
        train__steps=200,
        train__eval_interval=10,
        machine__nodes=nodes,
        machine__rendezvous=f"10.77.0.2:{PORT}",
    )


def until_a_save(recipe: Recipe, *running: "subprocess.Popen[str]") -> None:
    """Wait for a save past the first step."""
    while not any(int(p.name[5:]) > 0 for p in recipe.data.glob("state/*/save-*[0-9]")):
        assert all(process.poll() is None for process in running)
        time.sleep(0.01)


def end(process: "subprocess.Popen[str]", code: int = 0) -> str:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert "Traceback" not in said, said
    return said


def losses(recipe: Recipe) -> list[float]:
    rows = (recipe.data / "curves" / "train.csv").read_text().splitlines()[1:]
    return [float(row.split(",")[1]) for row in rows]


def test_a_machine_may_go_and_come_back_or_stay_away(
    tokenized: Path, tmp_path: Path, hosts: list[Host]
) -> None:
    goes = hosts[0]
    whole = new_recipe(tokenized, tmp_path / "whole", nodes=2)
    for process in [host.start(whole) for host in hosts]:
        end(process)

    back = new_recipe(tokenized, tmp_path / "back", nodes=2)
    first, survivor = [host.start(back) for host in hosts]
    until_a_save(back, first, survivor)
    goes.cut_the_power()
    assert survivor.poll() is None, "it ended before the cut"
    end(first, code=-signal.SIGKILL)
    goes.plug()
    again = goes.start(back)
    said = end(survivor) + end(again)
    assert "starting again from the last save" in said
    assert "2 x cpu in float32; going on from step" in said
    assert weights_sha256(back.data / "model") == weights_sha256(whole.data / "model")
    assert losses(back) == losses(whole)

    away = new_recipe(tokenized, tmp_path / "away", nodes="1:2")
    first, survivor = [host.start(away) for host in hosts]
    until_a_save(away, first, survivor)
    goes.cut_the_power()
    end(first, code=-signal.SIGKILL)
    said = end(survivor)
    assert "a machine is gone; starting again from the last save" in said
    assert "1 x cpu in float32; going on from step" in said
    assert losses(away) == pytest.approx(losses(whole), abs=1e-4)


def test_the_place_where_they_meet_must_stay(
    tokenized: Path, tmp_path: Path, hosts: list[Host]
) -> None:
    recipe = new_recipe(tokenized, tmp_path / "recipe", nodes="1:2")
    survivor, meeting_place = [host.start(recipe) for host in hosts]
    until_a_save(recipe, survivor, meeting_place)
    hosts[1].cut_the_power()
    end(meeting_place, code=-signal.SIGKILL)
    assert f"machine.rendezvous 10.77.0.2:{PORT} does not answer" in end(survivor, code=1)
    assert not ip("netns", "pids", hosts[0].name), "its processes have ended as well"
