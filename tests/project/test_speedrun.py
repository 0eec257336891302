"""`make speedrun` in small, and what its board says."""

import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import CORES
from benchmarks.speedrun import BOARD, PAGE, TRACKS, Result, below, line, with_line
from nanogpt.common.errors import UserError
from nanogpt.settings import load
from tests.kit.fake_nanogpt import make_peer
from tests.kit.recipes import ROOT


def speedrun(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.speedrun", *map(str, words)]
    # threads that wait for each other need not burn a core that other tests want
    environment = os.environ | {"GOMP_SPINCOUNT": "2000"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def board(page: str) -> list[str]:
    lines = page.splitlines()
    first = next(i for i, text in enumerate(lines) if text.startswith(BOARD))
    return lines[first + 2 :]


@pytest.mark.slow
def test_every_track_runs_and_has_a_line_beside_nanogpt(tmp_path: Path) -> None:
    text, peer = tmp_path / "input.txt", tmp_path / "nanoGPT"
    words = random.Random(1).choices(["to", "be", "or", "not", "that", "is"], k=20_000)
    text.write_text("\n".join(words))
    peer.mkdir()
    make_peer(peer)
    out = tmp_path / "out"
    done = speedrun("--quick", out, "--text", text, "--peer", peer, "--seeds", 2)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in out.iterdir()] == ["speedrun.md"]
    page = (out / "speedrun.md").read_text()
    rows = {row.split(" | ")[0].strip("| "): row for row in board(page)}
    ran = [name for name, track in TRACKS.items() if track.cores <= CORES]
    assert set(ran) <= set(rows)
    for name in ran:
        cells = rows[name].split(" | ")
        assert re.fullmatch(r"\d\.\d{4} ± \d\.\d{4}", cells[1])
        assert 0 <= float(cells[2]) <= 1
        assert float(cells[3]) > float(cells[4]) > 0
        assert cells[5] == "2"
        assert (" x, " in cells[7]) is TRACKS[name].peer
        assert rows[name] in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--track=to_1.88,fast"], "TRACK: no track 'fast'; there are to_1.88, in_120s, default"),
        (["--seeds=0"], "SEEDS: 0: say 1 to 100"),
        (["--peer=nowhere"], "PEER: there is no train.py in nowhere"),
        (["--text=nowhere.txt"], "TEXT: there is no file nowhere.txt"),
    ],
)
def test_bad_input_is_refused_in_one_line(words: list[str], says: str, tmp_path: Path) -> None:
    done = speedrun("--quick", tmp_path, *words)
    assert (done.returncode, done.stderr) == (2, f"speedrun: {says}\n")
    assert not list(tmp_path.iterdir())


def test_p_is_that_of_students_t() -> None:
    # t = -0.01 / (0.01 / sqrt(3)) = -1.732, of two degrees of freedom: 0.1127 by the table
    assert below([1.86, 1.87, 1.88], 1.88) == pytest.approx(0.1127, abs=1e-4)
    assert below([1.88, 1.89, 1.90], 1.88) == pytest.approx(1 - 0.1127, abs=1e-4)
    assert below([1.87, 1.87], 1.88) == 0
    assert below([1.88, 1.88], 1.88) == 1
    assert math.isnan(below([1.87], 1.88))


def test_a_line_has_means_medians_and_ratios_within_a_seed() -> None:
    ours = [Result(10.0, 5.0, 1.86), Result(20.0, 6.0, 1.87), Result(12.0, 8.0, 1.88)]
    theirs = [Result(100.0, 90.0, 1.9), Result(110.0, 96.0, 1.9), Result(120.0, 100.0, 1.9)]
    cells = line("to_1.88", ours, theirs, "abc", small=False).split(" | ")
    assert cells[:6] == ["| to_1.88", "1.8700 ± 0.0100", "0.11", "12.0", "6.0", "3"]
    assert cells[6:8] == ["1.9000, 110.0 s, 96.0 s", "10.0 x, 16.0 x"]
    late = [*ours, Result(121.0, 90.0, 1.5)]
    assert line("in_120s", late, [], "abc", small=False).split(" | ")[3] == "over the limit: 16.0"


def test_a_line_takes_the_place_of_its_own_older_one_alone() -> None:
    page = PAGE.read_text(encoding="utf-8")
    first = line("to_1.88", [Result(10.0, 5.0, 1.86)], [], "abc", small=False)
    other = first.replace("to_1.88", "in_120s")
    elsewhere = first.replace(" core of ", " core of another ")
    for row in (first, other, elsewhere):
        page = with_line(page, row)
    assert board(page)[-3:] == [first, other, elsewhere]
    assert first.endswith("| abc |")
    better = first.replace("1.8600", "1.8500")
    newer = with_line(page, better)
    assert board(newer)[-3:] == [other, elsewhere, better]
    three = line("to_1.88", 3 * [Result(10.0, 5.0, 1.86)], [], "abc", small=False)
    more = with_line(newer, three)
    assert board(more)[-3:] == [other, elsewhere, three]
    assert with_line(more, better) == more  # of a run that was stopped after a seed
    again = three.replace("1.8600", "1.8400")
    assert board(with_line(more, again))[-1] == again
    with pytest.raises(UserError, match="has no board"):
        with_line("# Speed-run\n", better)


def test_what_the_rules_say_of_the_recipes_is_so() -> None:
    rules = PAGE.read_text(encoding="utf-8")
    for name, track in TRACKS.items():
        recipe = track.recipe.relative_to(ROOT)
        assert re.search(rf"\| `{name}` \| `{recipe}` \| {track.cores} \| .*{track.target}", rules)
        assert load(track.recipe).download.base is None
    assert load(TRACKS["to_1.88"].recipe).model.context == 64
