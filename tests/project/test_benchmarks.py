"""`make bench` in small: all its sections, our side for real, and a stand-in for nanoGPT."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from benchmarks import gpu, page
from benchmarks.__main__ import PAGE, SECTIONS, keep
from benchmarks.measures import CONTEXT, LONGER, QUICK, Bench, Figure, reaching, short
from benchmarks.processes import run
from benchmarks.sides import QUICK_START, Ours, Theirs, Training
from nanogpt.architecture import GPTConfig
from nanogpt.common.errors import UserError
from nanogpt.machine.distributed import process_count
from nanogpt.model import GPT
from nanogpt.settings import load
from tests.kit.fake_nanogpt import CONFIG, make_peer
from tests.kit.recipes import ROOT

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chars = random.Random(1).choices("abcdefgh \n", k=20_000)
    path = tmp_path_factory.mktemp("text") / "input.txt"
    path.write_text("".join(chars))
    return path


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nanoGPT")
    make_peer(folder)
    return folder


# threads that wait for each other need not burn a core that other tests want
SPIN = "GOMP_SPINCOUNT", "2000"


@pytest.fixture
def bench() -> Iterator[Start]:
    """Starts `make bench` where torch finds no GPU."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "benchmarks", *map(str, words)]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", SPIN[0]: SPIN[1]}
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=pipe, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()  # a test failed; it ends what it has started
        process.communicate()


@pytest.mark.slow
def test_every_section_runs_and_both_sides_have_figures(
    bench: Start, tmp_path: Path, text: Path, peer: Path
) -> None:
    process = bench("--quick", tmp_path, "--peer", peer, "--text", text, "--seeds", 1)
    _, said = process.communicate(timeout=1800)
    assert process.returncode == 0, said
    assert "bench: gpu: torch finds none here, so this section is left out\n" in said
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "benchmarks.md"}
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["steps", "loss", "start", "saving", "generation", "server"]
    figures = [Figure(**f) for found in results.values() for turn in found["turns"] for f in turn]
    assert all(math.isfinite(figure.ours) for figure in figures)
    by_name = {figure.measure: figure for figure in figures}
    assert by_name["loss of nanoGPT's weights in our `gpt2` and in its own model"].ours < 1e-5
    assert by_name["command to a loss of 1.88"].bounds == ["ours", "theirs"]
    assert all(figure.theirs for figure in figures if figure.measure.startswith("quick start"))
    compared = [figure for figure in figures if figure.theirs is not None]
    units = {"steps/s", "s", "MiB", "nats", "tokens/s", "ms", "%"}
    assert {figure.unit for figure in compared} == units
    assert all(figure.ours > 0 and figure.theirs for figure in compared)
    shown = (tmp_path / "benchmarks.md").read_text()
    for section in results:
        assert f"- {section}, by `make bench PEER=path/to/nanoGPT TEXT=" in shown
    assert all(f"| {measure} |" in shown for measure in by_name)


@pytest.mark.slow
def test_a_training_of_ours_is_timed_and_scored(
    tmp_path: Path, text: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*SPIN)
    shutil.copy(empty_database, tmp_path)  # which takes MLflow some seconds to make
    ours = Ours(tmp_path, str(text))
    assert ours.text.read_text() == text.read_text()
    training = ours.train(QUICK_START, cores=1, train=short(3) | {"log_interval": 1})
    assert 0 < training.step_seconds < training.first_step < training.command.seconds
    assert [point["step"] for point in training.losses] == [3]
    assert (training.model / "model.safetensors").exists()
    ours.score(training, context=64, cores=1)
    assert training.score["loss"] == pytest.approx(training.losses[-1]["loss"], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGHUP])
def test_who_is_stopped_keeps_the_turns_that_were_done(
    bench: Start, tmp_path: Path, text: Path, told: signal.Signals
) -> None:
    process = bench("--quick", tmp_path, "--text", text, "--only", "start", "--seeds", 99)
    deadline = time.monotonic() + 300
    while not (tmp_path / "benchmarks.md").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(told)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 128 + told, said
    assert not psutil.wait_procs(running, timeout=60)[1], "a command goes on with nobody to hear it"
    assert said.splitlines()[-1] == "bench: stopped; all turns before this one are kept"
    assert "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "benchmarks.md"}
    turns = json.loads((tmp_path / "results.json").read_text())["start"]["turns"]
    assert turns
    assert all(figure["ours"] > 0 for turn in turns for figure in turn)
    assert "| start | peak memory of 3 steps | MiB |" in (tmp_path / "benchmarks.md").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only=steps,speed"], "ONLY: no section 'speed'; there are steps, loss, start,"),
        (["--only=gpu"], "gpu: torch finds none here"),
        (["--seeds=0"], "SEEDS: 0 turns measure nothing"),
        (["--peer=nowhere"], "PEER: there is no train.py in nowhere"),
        (["--text=nowhere.txt"], "TEXT: there is no file nowhere.txt"),
        (["--text=Makefile"], "download: download.corpus: cannot read"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    bench: Start, tmp_path: Path, words: list[str], says: str
) -> None:
    process = bench("--quick", tmp_path, "--only=start", *words)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert said.startswith(f"bench: {says}")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_section_of_the_gpu_runs_on_this_processor(
    tmp_path: Path, text: Path, peer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*SPIN)
    monkeypatch.setattr(gpu, "ON_GPU", {"device": "cpu"})
    monkeypatch.setattr(gpu, "SMALL", QUICK_START)
    monkeypatch.setattr(gpu, "LARGE", QUICK_START)
    ours = Ours(tmp_path, str(text))
    sides = Bench(ours, Theirs(tmp_path / "peer", peer, ours), QUICK, turns=1)
    best, *pieces = gpu.gpu(sides)
    speeds = [figure for piece in pieces for figure in piece]
    assert all(figure.ours > 0 and figure.theirs for figure in (*speeds, *best))
    assert {figure.unit for figure in speeds} == {"tokens/s"}
    assert [figure.unit for figure in best] == ["s", "s", "nats", "s"]
    assert (ours.folder / "peer/data/openwebtext/val.bin").stat().st_size == 20_000


def test_ours_takes_one_gpu_as_theirs_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    machine = load(gpu.LARGE).machine.model_copy(update=gpu.ON_GPU)
    assert process_count(machine, 480) == 1


@pytest.fixture
def theirs(tmp_path: Path, peer: Path) -> Theirs:
    (tmp_path / "input.txt").write_text("ab" * 200)
    for name, count in (("train.bin", 360), ("val.bin", 40)):
        (tmp_path / name).write_bytes(b"\0\0\1\0" * (count // 2))
    ours: Any = type("Ours", (), {"text": tmp_path / "input.txt", "tokens": tmp_path})
    return Theirs(tmp_path / "copy", peer, ours)


def test_a_training_of_theirs_is_timed_and_keeps_no_pickle(theirs: Theirs) -> None:
    training = theirs.train([CONFIG, "--max_iters=40"], cores=1, seed=2)
    assert "flags --max_iters=40 --out_dir=out\n" in training.command.text
    assert 0 < training.step_seconds < training.first_step < training.command.seconds
    assert training.command.peak_mib > 50, "torch alone is more"
    names = sorted(path.name for path in training.model.iterdir())
    assert names == ["00000020.safetensors", "00000040.safetensors"]
    first = load_file(training.model / names[0])["transformer.wte.weight"]
    theirs.train([CONFIG, "--max_iters=20"], cores=1, seed=3)
    again = load_file(training.model / names[0])["transformer.wte.weight"]
    assert not first.equal(again), "the seed is not as asked"


def test_two_sides_with_different_tokens_are_refused(theirs: Theirs, peer: Path) -> None:
    (theirs.tokens / "val.bin").write_bytes(b"other")
    ours: Any = type("Ours", (), {"text": theirs.tokens / "input.txt", "tokens": theirs.tokens})
    with pytest.raises(UserError, match=r"PEER: its prepare\.py makes another val\.bin"):
        Theirs(theirs.folder.with_name("again"), peer, ours)


def test_a_failed_command_shows_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the disk is on fire"):
        run("-c", "import sys; sys.exit('the disk is on fire')", cwd=tmp_path)


def training(seconds: float, losses: list[float]) -> Training:
    command: Any = type("Finished", (), {"seconds": seconds})
    points = [{"step": 20 * i, "seconds": 2.0 * i, "loss": x} for i, x in enumerate(losses)]
    return Training(command, Path(), 0.5, 0.01, points)


def test_a_training_that_never_gets_there_is_counted_whole() -> None:
    ours, theirs = training(9.0, [3.0, 2.0, 1.0]), training(8.0, [3.0, 2.9])
    command, steps = reaching(2.0, ours, theirs)
    assert command == Figure("command to a loss of 2.0", "s", 2.0, 8.0, ("theirs",))
    assert steps == Figure("steps alone to it", "s", 0.2, 0.2, ("theirs",))
    (alone, _) = reaching(0.5, ours, None)
    assert (alone.ours, alone.theirs, alone.bounds) == (9.0, None, ("ours",))


def figure(unit: str, ours: float, theirs: float | None, *bounds: str) -> dict[str, Any]:
    return {"measure": "m", "unit": unit, "ours": ours, "theirs": theirs, "bounds": bounds}


@pytest.mark.parametrize(
    ("figures", "row"),
    [
        ([figure("s", 2, 8), figure("s", 4, 4), figure("s", 5, 10)], "s | 4 | 8 | 2"),
        ([figure("steps/s", 20, 10)], "steps/s | 20 | 10 | 2"),
        ([figure("s", 2, 8, "theirs"), figure("s", 2, 10)], "s | 2 | over 9 | over 4.5"),
        ([figure("s", 2, 8, "ours")], "s | over 2 | 8 | "),
        ([figure("s", 2, None)], "s | 2 |  | "),
        ([figure("nats", 1.56061, 1.9)], "nats | 1.5606 | 1.9000 | "),
        ([figure("tokens/s", 12345.6, None)], "tokens/s | 12,346 |  | "),
    ],
)
def test_a_row_has_medians_and_a_ratio(figures: list[dict[str, Any]], row: str) -> None:
    found = {"steps": {"about": {}, "turns": [[f] for f in figures]}}
    assert f"| steps | m | {row} |\n" in page.render(found, SECTIONS, "")


def test_a_section_that_is_not_run_stays_as_it_is() -> None:
    about = {"command": "`make bench`", "date": "today"}
    both = {name: {"about": about, "turns": [[figure("s", 1, 2)]]} for name in ("steps", "start")}
    older = page.render(both, SECTIONS, "")
    newer = {"start": {"about": about, "turns": [[figure("s", 3, 6)]]}}
    assert page.render(newer, SECTIONS, older) == older.replace("s | 1 | 2", "s | 3 | 6").replace(
        "steps | m | s | 3 | 6", "steps | m | s | 1 | 2"
    )


def test_a_section_of_another_machine_stays_where_older_results_lie_here(tmp_path: Path) -> None:
    results, shown = tmp_path / "results.json", tmp_path / "page.md"
    about = {"command": "`make bench`"}
    own, theirs, new = ({"about": about, "turns": [[figure("s", n, 9)]]} for n in (1, 2, 3))
    keep(results, shown, "steps", own)
    shown.write_text(page.render({"steps": theirs}, SECTIONS, ""))  # as git brought it since
    keep(results, shown, "start", new)
    assert shown.read_text() == page.render({"steps": theirs, "start": new}, SECTIONS, "")
    shown.unlink()
    keep(results, shown, "start", new)
    assert shown.read_text() == page.render({"steps": own, "start": new}, SECTIONS, "")


def test_the_page_is_in_the_form_that_it_is_written_in() -> None:
    shown = PAGE.read_text(encoding="utf-8")
    assert page.render({}, SECTIONS, shown) == shown


@pytest.mark.parametrize(("name", "context"), [("to_1.88", CONTEXT), ("in_120s", LONGER)])
def test_its_recipes_have_no_more_parameters_than_the_quick_start(name: str, context: int) -> None:
    counts = []
    for path in (ROOT / "benchmarks" / f"{name}.yaml", QUICK_START):
        model = load(path).model
        width = model.n_embd // model.n_head
        shape = GPTConfig(vocab_size=65, head_dim=width, **model.model_dump())
        counts.append(GPT(shape).parameter_count())
    assert counts[0] <= counts[1]
    assert load(ROOT / "benchmarks" / f"{name}.yaml").model.context == context
